"""Everything of a run that learns, in memory: built for its devices, begun, saved, restored, and taken back to before trouble."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from daybreak import checkpoint, compiling, machine
from daybreak.choosing import Chosen
from daybreak.data.batches import Ahead, Batches, Tokens
from daybreak.data.skipped import Skipped
from daybreak.data.steps import Steps, largest_micro_batch
from daybreak.learning import optimizer_for
from daybreak.model import init
from daybreak.model.gpt import GPT
from daybreak.settings import Settings
from daybreak.training.clock import Clock
from daybreak.training.guard import Guard, Trouble
from daybreak.training.parallel import Across, recompute_blocks
from daybreak.training.precision import MixedPrecision
from daybreak.training.rollback import Rollback, Rollbacks
from daybreak.world import World


class Running:
    """The state of a run: all that a checkpoint holds, and what it takes to go on from one."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        text: Tokens,
        identity: Mapping[str, str],
        device: torch.device,
        precision: machine.Precision,
        world: World,
        ways: Across,
        chosen: Chosen,
    ) -> None:
        """`identity` says what the text is, as checkpoints are to note. The model has no weights until `begin` or `restore`."""
        self.settings, self.out, self.world, self.across, self.device, self.chosen = settings, out, world, ways, device, chosen
        if device.type == "cpu":
            machine.prepare_cpu(settings.machine.threads)
        if precision in ("fp32", "tf32"):
            machine.use_precision(precision)
        shape, plan = settings.model, settings.train
        self.gpt = self._build()
        self.optimizer = optimizer_for(settings, self.gpt, precision, ways)
        self.number_format = precision
        self._set_out()
        self.batches = Batches(
            text,
            context_length=shape.context_length,
            batch_tokens=Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens),
            micro_batch=chosen.micro_batch,
            seed=plan.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.ahead = Ahead(self.batches, device)
        self.rollbacks = Rollbacks()
        self.identity = dict(identity)
        self.saver: checkpoint.Saver | None = None
        self.clock = Clock(plan.budget_seconds)

    @property
    def tokens(self) -> int:
        """Trained on so far."""
        return self.batches.steps.before(self.done)

    def begin(self, new: bool) -> checkpoint.Restored | None:
        """Goes on from the newest checkpoint that verifies; from the initial weights where there is none, or the run is new."""
        restored = None if new else self._restore()
        if restored is None:
            self._initialize()
        self.clock.load_state_dict({} if restored is None else restored.state.get("clock", {}))
        wanted = self.settings.checkpoint
        self.saver = checkpoint.Saver(
            self.out,
            self.world,
            keep=wanted.keep,
            permanent_every=wanted.permanent_every_tokens,
            identity=self.identity,
            verified=[] if restored is None else [restored.path],
        )
        return restored

    def save(self, *, hurry: bool = False) -> None:
        """Begins to write a checkpoint; training may go on meanwhile. `saver.publish` ends it."""
        assert self.saver is not None
        state = {
            "precision": self.precision.state_dict(),
            "guard": self.guard.state_dict(),
            "skipped": self.batches.skipped.stretches,
            "rollbacks": self.rollbacks.taken,
            "clock": self.clock.state_dict(),
        }
        self.saver.begin(self.done, self.tokens, self.gpt, self.optimizer, state, hurry=hurry)

    def go_back(self, trouble: Trouble) -> int:
        """Takes the run back to before the trouble, to go on without the data that it came with; returns the steps done there.

        Raises Troubled if the run has gone back too often already.
        """
        assert self.saver is not None
        most = self.rollbacks.latest(trouble, self.settings.train.most_rollbacks)
        self.saver.finish()
        rollbacks, skipped = self.rollbacks, self.batches.skipped
        restored = self._restore(most_steps=most)
        if restored is None:
            self._initialize()
        if self.world.leads:
            for later in checkpoint.found(self.out):
                if restored is None or later > restored.path:
                    checkpoint.delete(later)  # after a crash the run must not go on from within the trouble
        self.world.wait()
        self.rollbacks, self.batches.skipped = rollbacks.with_one(trouble, self.done), skipped
        self.batches.skip(trouble.first, trouble.last)
        return self.done

    def may_compute_less(self) -> bool:
        """Whether the micro-batch, having been chosen and not asked for, may be made smaller where memory runs out.

        Not among several processes: the others wait for this one in the middle of a step.
        """
        return self.world.size == 1 and self.settings.train.micro_batch is None and self.chosen.micro_batch > 1

    def compute_less(self) -> None:
        """Halves the micro-batch and begins again where the run stood when this process took it up."""
        self.optimizer.zero_grad(set_to_none=True)
        self.ahead.close()
        now = self.batches.micro_batch
        self.batches.micro_batch = largest_micro_batch(now, now // 2)  # a divisor of what divides the batch
        self.chosen = replace(self.chosen, micro_batch=self.batches.micro_batch)
        self.ahead = Ahead(self.batches, self.device)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._restore() is None:
            self._initialize()

    def close(self) -> None:
        """Ends the reading thread and gives up a save that is under way."""
        self.ahead.close()
        if self.saver is not None:
            self.saver.close()

    def _build(self) -> GPT:
        """The model, or this process's part of it, with no weights yet."""
        with torch.device("meta"):
            gpt = GPT(self.settings.model, self.chosen.kernel(self.settings))
        if self.settings.machine.recompute:
            recompute_blocks(gpt)
        self.across.place(gpt)
        gpt.to_empty(device=self.device)
        if self.settings.machine.compile:
            compiling.keep()
            for block in gpt.blocks:
                block.compile()
        return gpt

    def _set_out(self) -> None:
        """What a run begins with besides its weights."""
        plan = self.settings.train
        machine.seed_everything(plan.seed, self.world.rank)
        self.precision = MixedPrecision(self.number_format, self.device)
        self.guard = Guard(self.device, spike=plan.spike)
        self.done = 0

    def _initialize(self) -> None:
        self._set_out()
        self.optimizer.state.clear()
        init.initialize(self.gpt, self.settings.train.seed, self.across.write)

    def _restore(self, most_steps: int | None = None) -> checkpoint.Restored | None:
        restored = checkpoint.restore(
            self.out,
            self.gpt,
            self.optimizer,
            self.world,
            seed=self.settings.train.seed,
            identity=self.identity,
            most_steps=most_steps,
        )
        if restored is not None:
            state: dict[str, Any] = restored.state
            self.done = restored.step
            self.guard.load_state_dict(state["guard"])
            self.precision.load_state_dict(state["precision"])
            self.batches.skipped = Skipped(tuple((first, end) for first, end in state["skipped"]))
            self.rollbacks = Rollbacks(tuple(Rollback(*row) for row in state["rollbacks"]))
        return restored
