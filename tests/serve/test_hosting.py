"""A model in each number format behind the server: it answers, embeds, and says which format it is."""

from __future__ import annotations

import pytest
from serving import serving, tiny_model

from daybreak.inference.requests import Limits
from daybreak.serve.hosting import host


@pytest.mark.parametrize(("dtype", "told"), [("fp32", "fp32"), ("auto", None), ("int8", "int8")])
def test_a_number_format(dtype: str, told: str | None) -> None:
    plain = tiny_model()
    with serving(host("tiny", plain, dtype, Limits())) as client:
        found = client.get("/v1/models/tiny")["dtype"]
        assert found == told if told else found in ("fp16w", "fp32")
        assert client.complete("The sun", max_tokens=8)["usage"]["completion_tokens"] == 8
        embedding = client.post("/v1/embeddings", input="The sun")["data"][0]["embedding"]
        exact = host("exact", plain, "fp32", Limits()).embed(plain.tokenizer.encode("The sun").tolist())
        assert sum(a * b for a, b in zip(embedding, exact, strict=True)) > 0.995
