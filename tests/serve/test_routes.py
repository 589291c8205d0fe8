"""Chats, embeddings, tokens, models, health and figures: each against what the model itself says."""

from __future__ import annotations

import base64
import json
import re
import struct

import pytest
import torch
from serving import CONTEXT, Client, hosted, serving, tiny_model

from daybreak.serve.chatting import as_text

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_the_plain_template() -> None:
    turns = [("system", " Be brief.\n"), ("user", "Hi"), ("assistant", "Ho "), ("user", "Why?")]
    assert as_text(turns) == "Be brief.\n\nUser: Hi\nAssistant: Ho\nUser: Why?\nAssistant:"


def test_a_chat_is_a_completion_of_the_template(client: Client) -> None:
    told = client.post("/v1/chat/completions", messages=MESSAGES, temperature=0, max_completion_tokens=12)
    plain = client.complete(as_text([("system", "Be brief."), ("user", "Hi")]), max_tokens=12, stop=["\nUser:"])
    choice = told["choices"][0]
    assert choice["message"]["content"] == plain["choices"][0]["text"].lstrip()
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == plain["choices"][0]["finish_reason"]
    assert told["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]
    told = client.post("/v1/chat/completions", messages=[MESSAGES[0], *parts], temperature=0, max_tokens=12)
    assert told["choices"][0]["message"] == choice["message"]


def test_a_chat_streams(client: Client) -> None:
    asked = {"messages": MESSAGES, "temperature": 1, "seed": 4, "max_tokens": 15, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = client.post("/v1/chat/completions", **asked)
    events = client.stream("/v1/chat/completions", **asked)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    for index in (0, 1):
        deltas = [piece["delta"] for event in events for piece in event["choices"] if piece["index"] == index]
        assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
        assert "".join(delta["content"] for delta in deltas) == whole["choices"][index]["message"]["content"]
    content = whole["choices"][0]["logprobs"]["content"]
    assert len(content) == len(whole["choices"][1]["logprobs"]["content"]) == 15
    assert len(content[0]["top_logprobs"]) == 2
    assert bytes(content[0]["bytes"]).decode("utf-8", "replace") == content[0]["token"] or content[0]["token"].startswith("bytes:")


def test_embeddings(client: Client) -> None:
    model = tiny_model()
    told = client.post("/v1/embeddings", input=["The sun", "é"])
    for text, row in zip(["The sun", "é"], told["data"], strict=True):
        ids = torch.tensor([model.tokenizer.encode(text).tolist()])
        seen: list[torch.Tensor] = []
        model.gpt.norm.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        model(ids)
        mean = seen[0][0].mean(dim=0)
        assert row["embedding"] == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
    packed = client.post("/v1/embeddings", input="The sun", encoding_format="base64")["data"][0]["embedding"]
    assert struct.unpack("<32f", base64.b64decode(packed)) == pytest.approx(told["data"][0]["embedding"], abs=1e-6)
    assert told["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert client.post("/v1/embeddings", 400, input="x", dimensions=7)["error"]["param"] == "dimensions"


def test_tokens_there_and_back(client: Client) -> None:
    told = client.post("/tokenize", prompt="The é", return_token_strs=True)
    ids = tiny_model().tokenizer.encode("The é").tolist()
    assert told == {"count": 6, "max_model_len": CONTEXT, "tokens": ids, "token_strs": ["T", "h", "e", " ", "bytes:\\xc3", "bytes:\\xa9"]}
    assert client.post("/detokenize", tokens=[*ids, 256])["prompt"] == "The é"
    assert client.post("/tokenize", prompt="")["tokens"] == []
    assert "came 257" in client.post("/detokenize", 400, tokens=[257])["error"]["message"]


def test_the_models_say_what_they_are(client: Client) -> None:
    listed = client.get("/v1/models")
    assert [model["id"] for model in listed["data"]] == ["tiny", "dusk"]
    assert listed["data"][0] == client.get("/v1/models/tiny")
    assert listed["data"][0]["max_model_len"] == CONTEXT
    assert listed["data"][0]["kind"] == "base model"
    assert "User:" in listed["data"][0]["chat_template"]


def test_health_and_figures() -> None:
    with serving(hosted()) as client:
        assert client.get("/health") == {"status": "ok"}
        client.complete("The sun", max_tokens=5)
        client.complete("The sun", max_tokens=5, logit_bias={"256": 100})
        client.post("/v1/completions", 404, model="other")
        status, headers, body = client.send("GET", "/metrics")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = body.decode().splitlines()
        for line in lines:
            assert re.fullmatch(r"# (HELP|TYPE) \S+ .+|[a-z0-9_:]+(\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\})? [0-9.e+-]+", line), line
        assert 'vllm:generation_tokens_total{model_name="tiny"} 6' in lines
        assert 'vllm:prompt_tokens_total{model_name="tiny"} 14' in lines
        assert 'vllm:request_success_total{model_name="tiny",finished_reason="length"} 1' in lines
        assert 'vllm:request_success_total{model_name="tiny",finished_reason="stop"} 1' in lines
        assert 'vllm:time_to_first_token_seconds_bucket{model_name="tiny",le="+Inf"} 2' in lines
        assert 'vllm:inter_token_latency_seconds_count{model_name="tiny"} 4' in lines
        assert 'daybreak_responses_total{status="404"} 1' in lines


def test_a_model_that_has_broken_down_is_told_of() -> None:
    one = hosted()
    with serving(one) as client:
        one.close()
        assert client.send("GET", "/health")[0] == 503
        assert "has broken down" in client.post("/v1/completions", 503, prompt="x")["error"]["message"]


def test_the_interface_describes_itself(client: Client) -> None:
    described = client.get("/openapi.json")
    assert set(described["paths"]) >= {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/embeddings", "/tokenize", "/metrics"}
    fields = described["components"]["schemas"]["CompletionBody"]["properties"]
    assert {"prompt", "max_tokens", "min_p", "echo", "logprobs"} <= set(fields)


def test_the_page_asks_no_other_server(client: Client) -> None:
    status, headers, body = client.send("GET", "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    text = body.decode()
    assert "/* script */" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert json.loads(client.send("GET", "/nowhere")[2])["error"]["type"] == "not_found_error"
