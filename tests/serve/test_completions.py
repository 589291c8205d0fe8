"""/v1/completions says what the model says: against the model itself, streamed and whole, alone and among others."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from serving import CONTEXT, Client, tiny_model

EOT = 256


def greedy(ids: list[int], count: int, seed: int = 0) -> list[int]:
    model, tokens = tiny_model(seed), list(ids)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(ids) :]


def logprobs(ids: list[int]) -> torch.Tensor:
    return tiny_model()(torch.tensor([ids]))[0].log_softmax(-1).detach()


def encoded(text: str) -> list[int]:
    ids: list[int] = tiny_model().tokenizer.encode(text).tolist()
    return ids


def test_the_likeliest_text(client: Client) -> None:
    told = client.complete("The sun", max_tokens=12, return_token_ids=True)
    wanted = greedy(encoded("The sun"), 12)
    assert told["choices"][0]["token_ids"] == wanted
    assert told["choices"][0]["prompt_token_ids"] == encoded("The sun")
    assert told["choices"][0]["text"] == tiny_model().tokenizer.decode(wanted)
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["object"] == "text_completion"
    assert told["model"] == "tiny"
    assert told["usage"]["prompt_tokens"] == 7
    assert told["usage"]["completion_tokens"] == 12
    assert told["usage"]["total_tokens"] == 19


@pytest.mark.parametrize("prompts", [["The sun", "A model"], [encoded("The sun"), encoded("A model")]])
def test_several_prompts_each_with_several_texts(client: Client, prompts: Any) -> None:
    told = client.complete(prompts, max_tokens=6, n=2, temperature=1, seed=5)
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in told["choices"]]
    assert texts[0] != texts[1]
    alone = [client.complete(prompt, max_tokens=6, temperature=1, seed=5)["choices"][0]["text"] for prompt in prompts]
    assert [texts[0], texts[2]] == alone
    assert told["usage"]["completion_tokens"] == 24
    assert told["usage"]["prompt_tokens"] == 14


def test_a_list_of_ids_is_one_prompt(client: Client) -> None:
    assert client.complete(encoded("The sun"))["choices"] == client.complete("The sun")["choices"]


def test_nothing_begins_a_new_text(client: Client) -> None:
    for prompt in ("", "<|endoftext|>"):
        assert client.complete(prompt, return_token_ids=True)["choices"][0]["prompt_token_ids"] == [EOT]
    assert client.complete("a<|endoftext|>", return_token_ids=True)["choices"][0]["prompt_token_ids"][-1] == ord(">")


def test_the_stream_is_the_whole(client: Client) -> None:
    asked = {"prompt": "A small café", "max_tokens": 20, "temperature": 1, "seed": 3, "logprobs": 2, "echo": True, "return_token_ids": True}
    whole = client.post("/v1/completions", **asked)
    events = client.stream("/v1/completions", **asked, stream_options={"include_usage": True})
    pieces = [event["choices"][0] for event in events[:-1]]
    assert len(pieces) > 10
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    choice = whole["choices"][0]
    assert "".join(piece["text"] for piece in pieces) == choice["text"]
    for name, values in choice["logprobs"].items():
        joined = [value for piece in pieces for value in piece["logprobs"][name]]
        if name in ("token_logprobs", "top_logprobs", "alternatives"):
            assert len(joined) == len(values)  # numbers of one batch or another differ in their last digits
        else:
            assert joined == values
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert len({event["id"] for event in events}) == 1


def test_logprobs_are_the_models(client: Client) -> None:
    ids = encoded("The sun")
    told = client.complete("The sun", max_tokens=5, logprobs=3, echo=True, return_token_ids=True)["choices"][0]
    written = told["token_ids"]
    wanted = logprobs(ids + written)
    found = told["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    for at, token in enumerate((ids + written)[1:]):
        assert found["token_logprobs"][at + 1] == pytest.approx(float(wanted[at, token]), abs=1e-4)
        likeliest = [other["id"] for other in found["alternatives"][at + 1]]
        assert likeliest == wanted[at].topk(3).indices.tolist()
    assert found["text_offset"][:8] == list(range(8))
    assert told["text"].startswith("The sun")


def test_a_prompt_is_scored_without_writing(client: Client) -> None:
    """As the lm-evaluation-harness asks: max_tokens 0, or 1 whose last token it leaves away."""
    ids = [EOT, *encoded("The sun rises")]
    wanted = [float(row[token]) for row, token in zip(logprobs(ids), ids[1:], strict=False)]
    for max_tokens in (0, 1):
        told = client.complete(ids, max_tokens=max_tokens, logprobs=1, echo=True)["choices"][0]
        found = told["logprobs"]["token_logprobs"]
        assert found[1 : len(ids)] == pytest.approx(wanted, abs=1e-4)
        assert len(found) == len(ids) + max_tokens
        assert told["logprobs"]["tokens"][:4] == ["<|endoftext|>", "T", "h", "e"]
        for name, token, tops in zip(told["logprobs"]["tokens"][1:], ids[1:], told["logprobs"]["top_logprobs"][1:], strict=False):
            assert token >= 128 or name in tops
    assert client.complete(ids, max_tokens=0)["choices"][0]["text"] == ""
    assert client.complete("The sun", max_tokens=0, echo=True)["choices"][0]["text"] == "The sun"


def test_parts_of_characters_have_names_of_their_own(client: Client) -> None:
    told = client.complete("é", max_tokens=0, logprobs=0, echo=True)["choices"][0]
    assert told["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert told["text"] == "é"


def test_stop_strings(client: Client) -> None:
    text = client.complete("The sun", max_tokens=30)["choices"][0]["text"]
    stop = text[10:13]
    told = client.complete("The sun", max_tokens=30, stop=[stop, "never seen at all"])["choices"][0]
    assert told["text"] == text[: text.index(stop)]
    assert told["finish_reason"] == "stop"
    assert client.complete("The sun", max_tokens=30, stop=stop)["choices"][0]["text"] == told["text"]


def test_the_end_of_text_ends_it(client: Client) -> None:
    told = client.complete("The sun", max_tokens=9, logit_bias={str(EOT): 100}, logprobs=0)
    assert told["choices"][0]["text"] == ""
    assert told["choices"][0]["finish_reason"] == "stop"
    assert told["choices"][0]["logprobs"]["tokens"] == ["<|endoftext|>"]
    on = client.complete("The sun", max_tokens=9, logit_bias={str(EOT): 100}, ignore_eos=True, return_token_ids=True)
    assert on["choices"][0]["token_ids"] == [EOT] * 9


def test_a_seed_holds_whatever_else_is_asked_for(client: Client) -> None:
    asked = {"max_tokens": 25, "temperature": 1.2, "seed": 11}
    alone = client.complete("The sun", **asked)["choices"][0]["text"]
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.complete("The sun", **asked)["choices"][0]["text"])) for _ in range(6)]
    others = [threading.Thread(target=lambda: client.complete("A model that", max_tokens=40, temperature=1)) for _ in range(6)]
    for thread in [*threads, *others]:
        thread.start()
    for thread in [*threads, *others]:
        thread.join()
    assert found == [alone] * 6
    assert len({client.complete("The sun", max_tokens=25, temperature=1.2)["choices"][0]["text"] for _ in range(4)}) > 1
    assert client.complete("The sun", **{**asked, "seed": 11 - 2**63})["choices"][0]["text"] == alone


def test_penalties_and_bias(client: Client) -> None:
    free = client.complete("aaaa", max_tokens=20, return_token_ids=True)["choices"][0]["token_ids"]
    held = client.complete("aaaa", max_tokens=20, return_token_ids=True, presence_penalty=2, frequency_penalty=2)["choices"][0]["token_ids"]
    assert len(set(held)) > len(set(free))
    never = client.complete("aaaa", max_tokens=20, return_token_ids=True, logit_bias={str(free[0]): -100})["choices"][0]["token_ids"]
    assert free[0] not in never


def test_the_context_ends_it_and_a_long_prompt_is_cut_where_asked(client: Client) -> None:
    told = client.complete("x" * 60, max_tokens=50)
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] <= CONTEXT - 60 + 1
    error = client.post("/v1/completions", 400, prompt="x" * 65)["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == "prompt: wanted at most the model's context of 64 tokens, came 65; shorten it, or set truncate_prompt_tokens"
    cut = client.complete("y" * 20 + "x" * 60, truncate_prompt_tokens=10, max_tokens=3)
    assert cut["choices"] == client.complete("x" * 10, max_tokens=3)["choices"]


def test_each_model_by_its_name(client: Client) -> None:
    assert client.complete("The sun", model="tiny", max_tokens=8, return_token_ids=True)["choices"][0]["token_ids"] == greedy(
        encoded("The sun"), 8
    )
    dusk = client.complete("The sun", model="dusk", max_tokens=8, return_token_ids=True)
    assert dusk["model"] == "dusk"
    assert dusk["choices"][0]["token_ids"] == greedy(encoded("The sun"), 8, seed=1)
