"""Other people's programs against the server: the official openai client, and the lm-evaluation-harness."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from serving import Client, tiny_model

from daybreak.serve.chatting import as_text


@pytest.fixture
def theirs(client: Client) -> Any:
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def test_completions_by_openai(client: Client, theirs: Any) -> None:
    wanted = client.complete("The sun", max_tokens=10)["choices"][0]["text"]
    told = theirs.completions.create(model="tiny", prompt="The sun", temperature=0, max_tokens=10, logprobs=2, user="me")
    assert told.choices[0].text == wanted
    assert told.choices[0].finish_reason == "length"
    assert len(told.choices[0].logprobs.tokens) == told.usage.completion_tokens == 10
    events = list(
        theirs.completions.create(
            model="tiny", prompt="The sun", temperature=0, max_tokens=10, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(event.choices[0].text for event in events if event.choices) == wanted
    assert events[-1].usage.completion_tokens == 10


def test_chats_by_openai(client: Client, theirs: Any) -> None:
    asked: dict[str, Any] = {
        "model": "dusk",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "max_completion_tokens": 10,
    }
    told = theirs.chat.completions.create(**asked, logprobs=True, top_logprobs=1)
    plain = client.complete(as_text([("user", "Hi")]), model="dusk", max_tokens=10, stop="\nUser:")["choices"][0]["text"]
    assert told.choices[0].message.content == plain.lstrip()
    assert len(told.choices[0].logprobs.content) == 10
    events = list(theirs.chat.completions.create(**asked, stream=True))
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content for event in events) == plain.lstrip()


def test_the_rest_by_openai(client: Client, theirs: Any) -> None:
    assert [model.id for model in theirs.models.list()] == ["tiny", "dusk"]
    assert theirs.models.retrieve("dusk").id == "dusk"
    found = theirs.embeddings.create(model="tiny", input=["The sun", "A model"])
    wanted = client.post("/v1/embeddings", input=["The sun", "A model"])
    assert [row.embedding for row in found.data] == [pytest.approx(row["embedding"], abs=1e-6) for row in wanted["data"]]


def test_errors_by_openai(theirs: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        theirs.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="input should be less than or equal to 2"):
        theirs.completions.create(model="tiny", prompt="x", presence_penalty=3)


def test_the_harness_scores_as_we_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the harness's own machinery is between the texts and the scores; it finds our tokenizer by itself."""
    pytest.importorskip("tenacity", reason="the lm-evaluation-harness with its extra api is not installed")
    pytest.importorskip("lm_eval", reason="the lm-evaluation-harness with its extra api is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    model = tiny_model()
    api = LocalCompletionsAPI(base_url=f"{client.url}/v1/completions", model="tiny", max_length=64)
    assert api.tokenizer_backend == "remote"
    pairs = [("The sun", " rises"), ("A model", " is small, and it learns"), ("", "From nothing")]
    found = api.loglikelihood([Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)], disable_tqdm=True)
    for (left, right), (score, is_greedy) in zip(pairs, found, strict=True):
        before = model.tokenizer.encode(left).tolist() or [model.tokenizer.eot]
        ids = model.tokenizer.encode(right).tolist()
        rows = model(torch.tensor([before + ids]))[0].detach().log_softmax(-1)[len(before) - 1 : -1]
        assert score == pytest.approx(float(rows[range(len(ids)), ids].sum()), abs=1e-3)
        assert is_greedy == (rows.argmax(-1).tolist() == ids)
    until = Instance("generate_until", {}, ("The sun", {"until": ["\n"], "max_gen_toks": 8, "temperature": 0}), 0)
    assert api.generate_until([until], disable_tqdm=True) == [client.complete("The sun", max_tokens=8, stop="\n")["choices"][0]["text"]]
