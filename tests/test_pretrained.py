"""Models by name: pinned, kept in the cache, downloaded once from a server of the test's own, and one line where that fails."""

import dataclasses
import hashlib
import http.server
import re
import threading
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from daybreak import files, loading, pretrained
from daybreak.model import hf
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import parameter_count
from daybreak.model.init import build
from daybreak.pretrained import PRETRAINED

SHAPE = GPTConfig(vocab_size=257, context_length=16, n_layer=2, n_head=2, d_model=16, init_std=0.3)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and keeps what was asked for."""

    asked: list[str] = []  # noqa: RUF012 - each test has a class of its own

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one tiny model, `gpt2` by name, whose tokenizer is that of bytes: (folder, what was asked for, the published model)."""
    published = pretrained.Pretrained("openai-community/gpt2", "607a30", "", SHAPE)
    folder = tmp_path / "hub" / "openai-community" / "gpt2" / "resolve" / "607a30"
    folder.mkdir(parents=True)
    state = hf.export_state(build(SHAPE, 0).state_dict(), SHAPE)
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    save_file(state | {"h.0.attn.bias": torch.ones(1, 1, 16, 16)}, folder / "model.safetensors")
    published = dataclasses.replace(published, sha256=files.sha256(folder / "model.safetensors"))
    handler = type("Own", (Handler,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "hub")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PRETRAINED, "gpt2", published)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, load=loading.load_tokenizer: load("bytes" if name == "gpt2" else name))
    yield folder, handler.asked, published
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_name_is_downloaded_once_and_is_the_model(hub, tmp_path):
    _, asked, published = hub
    for _ in range(2):
        model = loading.load_pretrained(published)
        assert model.config == SHAPE
        assert all(torch.equal(model.gpt.state_dict()[name], tensor) for name, tensor in build(SHAPE, 0).state_dict().items())
    assert asked == ["/openai-community/gpt2/resolve/607a30/model.safetensors"]
    assert [path.name for path in (tmp_path / "cache" / "models" / "gpt2").iterdir()] == ["model.safetensors"]


def test_what_was_damaged_in_the_cache_is_fetched_again(hub, tmp_path):
    _, asked, published = hub
    path = pretrained.fetch(published) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert files.sha256(pretrained.fetch(published) / "model.safetensors") == published.sha256
    assert len(asked) == 2


def test_another_file_than_the_pinned_one_is_not_kept(hub, tmp_path):
    folder, _, published = hub
    (folder / "model.safetensors").write_bytes(b"something else")
    came = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(files.FileProblem, match=f"wanted sha256 {published.sha256}, came {came}; nothing was kept; .*`hf download") as told:
        pretrained.fetch(published)
    assert "\n" not in str(told.value)
    assert list((tmp_path / "cache" / "models" / "gpt2").iterdir()) == []


def test_without_a_network_one_line_names_the_way_out(hub, monkeypatch):
    _, _, published = hub
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wanted = r"could not be downloaded \(.*refused.*\); where there is a network, `hf download openai-community/gpt2 --local-dir DIR`, then"
    with pytest.raises(files.FileProblem, match=wanted) as told:
        pretrained.fetch(published)
    assert "\n" not in str(told.value)


def test_the_table_is_whole():
    assert list(PRETRAINED) == ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
    for name, model in PRETRAINED.items():
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
        assert model.repository.endswith(f"/{name}")
        assert pretrained.pretrained(name) is pretrained.pretrained(model.repository) is model
    counts = [parameter_count(model.config) for model in PRETRAINED.values()]
    assert counts == [*(parameter_count(shape) for shape in SIZES["gpt2"].values()), 81_912_576]
    assert len({model.sha256 for model in PRETRAINED.values()}) == len(PRETRAINED)
    assert pretrained.pretrained("gpt3") is None


def test_the_shape_is_what_the_hub_s_config_json_says():
    """The values of openai-community/gpt2's config.json, as everyone who imports the folder gets them."""
    values = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}
    values |= {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1}
    assert hf.import_config(values) == PRETRAINED["gpt2"].config
