"""Tokenizers against the two reference implementations, tiktoken and Hugging Face's, and against their own promises."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daybreak import files
from daybreak.data import ranks, tokenizer
from daybreak.data.encoders import PATTERN, cut_long_spaces
from daybreak.data.tokenizer import END_OF_TEXT, Tokenizer, TokenizerProblem, Utf8Stream, load_tokenizer, train_bpe, train_chars

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
GPT2_FOLDER = SHARED / "gpt2_bpe"
needs_gpt2 = pytest.mark.skipif(not GPT2_FOLDER.is_dir(), reason="GPT-2's vocabulary is not in ../shared/data/gpt2_bpe")
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SAMPLE = (
    "It was a bright cold day in April, and the clocks were striking thirteen. It isn't the 13th, they'll say; we've 1,984 of them.\n\n"
    "  Déjà vu: naïve façade, Ελληνικά, русский, 日本語, العربية, 🌅🌄, a\u0301, \u200b, \x00, \x85, \xa0 \u3000\u3000x\t\r\n\r\n"
    "for i in range(10):\n        print(i ** 2)   # spaces   \n"
) * 4
TRICKY = [
    "",
    " ",
    "  ",
    "\n",
    "a",
    " a",
    "  a",
    "a  ",
    "\n\n\n x",
    "''s'S'sd",
    "<|endoftext|>",
    "x<|endoftext|>y",
    "\ufeffx",
    "🌅" * 9,
    "\u3000 \u3000x",
]
texts = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="ab'sdtl 1\n\t\xa0\u3000é🌅<|>", max_size=200),
    st.lists(st.sampled_from([*TRICKY, *SAMPLE.split(" ")])).map("".join),
)
LONE = "\ud800"


@functools.cache
def huggingface(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer.json of a folder in Hugging Face's own program, reading the end of text in a text as text, as we do."""
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds a vocabulary that this machine happens to have, and none reaches the network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no-tiktoken-cache"))
    monkeypatch.delenv("DAYBREAK_GPT2_VOCAB", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    if not GPT2_FOLDER.is_dir():
        pytest.skip("GPT-2's vocabulary is not in ../shared/data/gpt2_bpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBREAK_GPT2_VOCAB", str(GPT2_FOLDER))
        return load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train_bpe([SAMPLE], 400)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return train_chars([SAMPLE, "".join(TRICKY), "\ufffd"])


@pytest.fixture(params=["gpt2", "bpe", "bytes", "chars"])
def each(request: pytest.FixtureRequest) -> Tokenizer:
    kind = {"gpt2": "gpt2", "bpe": "learned", "chars": "characters"}.get(request.param)
    made = load_tokenizer("bytes") if kind is None else request.getfixturevalue(kind)
    assert made.name == request.param
    return made


def known_to(made: Tokenizer, text: str) -> str:
    """The text, for `chars` without the characters that it never saw."""
    return text if made.name != "chars" else "".join(c for c in text if c in SAMPLE)


# --- against the references --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiktoken_gpt2() -> tiktoken.Encoding:
    """GPT-2's encoding from OpenAI's two original files, read here independently of the package; the pattern is the one of 2019."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)}
    vocab = json.loads((GPT2_FOLDER / "encoder.json").read_text(encoding="utf-8"))
    mergeable = {bytes(byte_of[c] for c in token): i for token, i in vocab.items() if token != END_OF_TEXT}
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    return tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=mergeable, special_tokens={END_OF_TEXT: 50256})


@pytest.fixture(scope="module")
def gpt2_folder(gpt2: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2.save(folder)
    return folder


@needs_gpt2
def test_gpt2_known_ids(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello world").tolist() == [15496, 995]  # the example of transformers' GPT2Tokenizer
    assert (gpt2.name, gpt2.vocab_size, gpt2.eot) == ("gpt2", 50257, 50256)
    assert gpt2.encode("x").dtype == np.uint16


@needs_gpt2
@pytest.mark.parametrize("name", ["tinyshakespeare/input.txt", "wikitext-2/valid.txt", "lambada/lambada_openai_llmfoundry.jsonl"])
def test_gpt2_on_real_text(gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, gpt2_folder: Path, name: str) -> None:
    text = (SHARED / name).read_text(encoding="utf-8")[:400_000]
    documents = [text[i : i + 4000] for i in range(0, len(text), 4000)]
    ours = [gpt2.encode(document).tolist() for document in documents]
    assert ours == tiktoken_gpt2.encode_ordinary_batch(documents, num_threads=1)
    assert ours == [encoding.ids for encoding in huggingface(gpt2_folder).encode_batch(documents)]
    assert [gpt2.decode(ids) for ids in ours] == documents


@needs_gpt2
@quick
@given(text=texts)
def test_gpt2_on_any_text(gpt2: Tokenizer, tiktoken_gpt2: tiktoken.Encoding, gpt2_folder: Path, text: str) -> None:
    ours = gpt2.encode(text).tolist()
    assert ours == tiktoken_gpt2.encode_ordinary(text)
    assert ours == huggingface(gpt2_folder).encode(text).ids


@pytest.fixture
def saved(each: Tokenizer, tmp_path: Path) -> Path:
    each.save(tmp_path / "saved")
    return tmp_path / "saved"


@quick
@given(text=texts)
def test_huggingface_gives_the_same_ids_and_text(each: Tokenizer, saved: Path, text: str) -> None:
    text = known_to(each, text)
    theirs = huggingface(saved)
    assert theirs.encode(text).ids == each.encode(text).tolist()
    assert theirs.decode(each.encode(text).tolist()) == text
    assert theirs.get_vocab_size() == each.vocab_size
    assert theirs.token_to_id(END_OF_TEXT) == each.eot


def test_transformers_opens_the_folder(each: Tokenizer, saved: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for _ in ("the tokenizer alone", "beside a model"):
        theirs = transformers.AutoTokenizer.from_pretrained(str(saved))
        text = known_to(each, SAMPLE)
        assert theirs(text)["input_ids"] == each.encode(text).tolist()
        assert theirs.decode(each.encode(text).tolist()) == text
        assert (theirs.eos_token_id, theirs.bos_token_id, len(theirs)) == (each.eot, each.eot, each.vocab_size)
        assert theirs(END_OF_TEXT)["input_ids"] == [each.eot]  # their convention, for those who want it
        files.write_json(saved / "config.json", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})


# --- promises of the interface -----------------------------------------------------------------------------------------------


@quick
@given(text=texts)
def test_round_trip(each: Tokenizer, text: str) -> None:
    text = known_to(each, text)
    ids = each.encode(text)
    assert each.decode(ids) == text
    assert each.decode_bytes(ids) == b"".join(each.token_bytes(int(i)) for i in ids) == text.encode("utf-8")
    assert each.byte_lengths()[ids].sum() == len(text.encode("utf-8"))
    assert each.eot not in ids


def test_byte_lengths(each: Tokenizer) -> None:
    lengths = each.byte_lengths()
    assert lengths.shape == (each.vocab_size,)
    assert lengths.dtype == np.int64
    assert lengths[each.eot] == 0
    assert lengths[: each.eot].min() == 1
    assert lengths.tolist() == [len(each.token_bytes(i)) for i in range(each.vocab_size)]


def test_end_of_text_is_the_last_id_and_text_when_in_text(each: Tokenizer) -> None:
    assert each.eot == each.vocab_size - 1
    assert each.decode([*each.encode("ab"), each.eot, *each.encode("c")]) == "abc"
    ids = each.encode(END_OF_TEXT)
    assert each.eot not in ids
    assert each.decode(ids) == END_OF_TEXT


@pytest.mark.parametrize("wrong", [-1, "V", 10**9])
def test_unknown_ids_are_refused(each: Tokenizer, wrong: int | str) -> None:
    number = each.vocab_size if isinstance(wrong, str) else wrong
    for call in (each.decode, each.decode_bytes):
        with pytest.raises(TokenizerProblem, match=f"came {number};"):
            call([0, number])
    with pytest.raises(TokenizerProblem, match=f"from 0 to {each.eot}"):
        each.token_bytes(number)


def test_lone_surrogates_become_replacement_characters(each: Tokenizer) -> None:
    if each.name == "chars":
        each = train_chars([f"a{LONE}b🌅"])
        assert each.vocab_size == 5
    assert each.decode(each.encode(f"a{LONE}b{LONE}")) == "a\ufffdb\ufffd"
    assert each.decode(each.encode("\ud83c\udf05")) == "🌅"  # a pair of them means a character


def test_bytes_ids_are_the_bytes() -> None:
    made = load_tokenizer("bytes")
    assert made.encode("aé\n🌅").tolist() == list("aé\n🌅".encode())
    assert (made.vocab_size, made.eot) == (257, 256)
    assert made.decode([0xF0, 0x9F, 0x41]) == "\ufffdA"


def test_more_than_65536_ids_need_uint32() -> None:
    many = [chr(point) for point in range(0x20000, 0x20000 + 65536)]
    assert train_chars(many[:-1]).encode(many[0]).dtype == np.uint16
    large = train_chars(many)
    assert large.vocab_size == 65537
    assert large.encode(many[-1]).tolist() == [65535]
    assert large.encode(many[-1]).dtype == np.uint32


def test_save_and_load_are_the_same_tokenizer(each: Tokenizer, saved: Path) -> None:
    content = (saved / "tokenizer.json").read_bytes()
    assert each.fingerprint == hashlib.sha256(content).hexdigest()
    assert files.read_json(saved / "special_tokens_map.json")["eos_token"] == END_OF_TEXT
    assert (
        files.read_json(saved / "tokenizer_config.json")["clean_up_tokenization_spaces"] is False
    )  # older transformers eat spaces otherwise
    for place in (saved, str(saved / "tokenizer.json")):
        again = load_tokenizer(place)
        assert (again.name, again.vocab_size, again.fingerprint) == (each.name, each.vocab_size, each.fingerprint)
        text = known_to(each, SAMPLE)
        assert again.encode(text).tolist() == each.encode(text).tolist()


def test_fingerprints_differ(learned: Tokenizer, characters: Tokenizer) -> None:
    others = [train_bpe([SAMPLE], 399), train_bpe([SAMPLE.upper()], 400), load_tokenizer("bytes"), train_chars(["ab"])]
    assert len({made.fingerprint for made in [learned, characters, *others]}) == 6


def test_a_tokenizer_travels_to_another_process(each: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(each))  # noqa: S301 (our own bytes, as multiprocessing sends them)
    text = known_to(each, SAMPLE)
    assert again.encode(text).tolist() == each.encode(text).tolist()


# --- texts that break tokenizers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["a", " ", "\n", "'", "é", "a ", " \n", "<|endoftext|>", "\u3000"])
def test_long_monotonous_texts(learned: Tokenizer, unit: str) -> None:
    text = unit * (200_000 // len(unit)) + "x"
    ids = learned.encode(text)
    assert learned.decode(ids) == text
    assert len(ids) <= len(text.encode())


def test_a_run_of_spaces_beyond_the_stack_of_the_regex(learned: Tokenizer) -> None:
    text = "a" + " " * 1_100_000 + "x" + "\n" * 1_100_000 + " y"
    bare = tiktoken.Encoding("bare", pat_str=PATTERN, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
    with pytest.raises(ValueError, match="stack"):  # if this no longer raises, cut_long_spaces can go
        bare.encode_to_numpy(text)
    assert learned.decode(learned.encode(text)) == text


SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"


@pytest.fixture(scope="module")
def spacious() -> Tokenizer:
    """BPE with tokens across any two neighbouring spaces, which a cut at a wrong place would break."""
    return train_bpe([(first + second) * 2 + "a" for first in SPACES for second in SPACES], 2000)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=SPACES + "a1 !\x1c\x1f\u200b", max_size=60), longest=st.integers(1, 5))
@example(text="  \x1ca", longest=1)  # a space to Python, not to Unicode
def test_cutting_long_spaces_changes_no_id(spacious: Tokenizer, text: str, longest: int) -> None:
    parts = list(cut_long_spaces(text, longest))
    assert "".join(parts) == text
    assert [i for part in parts for i in spacious.encode(part).tolist()] == spacious.encode(text).tolist()


def test_long_spaces_are_cut() -> None:
    assert list(cut_long_spaces("a" + " " * 9 + "b  c" + " " * 9, longest=5)) == ["a" + " " * 8, " b  c" + " " * 9]


# --- learning ----------------------------------------------------------------------------------------------------------------


def test_learned_ids_are_bytes_then_merges_then_end(learned: Tokenizer) -> None:
    assert learned.vocab_size == 400
    assert b"".join(learned.token_bytes(i) for i in range(256)) == ranks.BYTES_IN_ORDER
    assert sorted(ranks.BYTES_IN_ORDER) == list(range(256))
    made_of = {learned.token_bytes(i) for i in range(256)}
    for i in range(256, 399):
        piece = learned.token_bytes(i)
        assert any(piece[:cut] in made_of and piece[cut:] in made_of for cut in range(1, len(piece)))
        made_of.add(piece)


def test_learning_finds_the_most_frequent_pairs() -> None:
    made = train_bpe(["abab abab abab cd"], 259)
    assert [made.token_bytes(256), made.token_bytes(257)] == [b"ab", b"abab"]


def test_learning_is_the_same_with_any_number_of_threads(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(SAMPLE * 20, encoding="utf-8")
    program = (
        "import os, sys, pathlib; from daybreak.data.tokenizer import train_bpe\n"
        "text = pathlib.Path(sys.argv[1]).read_text(encoding='utf-8')\n"
        "made = train_bpe([text[i:i+97] for i in range(0, len(text), 97)], 600)\n"
        "child = os.fork() if hasattr(os, 'fork') else 1\n"
        "if child == 0:\n    made.encode(text); os._exit(0)\n"
        "if hasattr(os, 'fork'): os.waitpid(child, 0)\n"
        "print(made.fingerprint, os.environ['TOKENIZERS_PARALLELISM'])"
    )
    seen = set()
    for threads, parallel in (("1", None), ("4", "true"), ("4", "false")):
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": threads}
        env.pop("TOKENIZERS_PARALLELISM", None)
        env |= {"TOKENIZERS_PARALLELISM": parallel} if parallel else {}
        done = subprocess.run([sys.executable, "-c", program, str(corpus)], env=env, capture_output=True, text=True, check=True)
        assert done.stderr == ""  # no progress, no warning at the fork
        fingerprint, choice = done.stdout.split()
        assert choice == (parallel or "false")  # a user's choice is kept
        seen.add(fingerprint)
    assert len(seen) == 1


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    assert train_bpe(["aaaa"], 1000).vocab_size == 259
    assert train_bpe([], 1000).vocab_size == 257
    assert train_bpe([SAMPLE], 257).vocab_size == 257


def test_learning_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenizerProblem, match=r"wanted at least 257 .* came 256"):
        train_bpe([SAMPLE], 256)
    monkeypatch.setattr(tokenizer, "LARGEST_TRAINING_TEXT", 1000)
    assert train_bpe(["é" * 500], 300).vocab_size > 257
    with pytest.raises(TokenizerProblem, match="pass a sample"):
        train_bpe(["é" * 500, "a"], 300)


def test_learning_takes_lone_surrogates() -> None:
    assert train_bpe([f"a{LONE}b"], 300).fingerprint == train_bpe(["a\ufffdb"], 300).fingerprint


def test_characters_are_sorted() -> None:
    made = train_chars(["cab", "b\n"])
    assert [made.token_bytes(i) for i in range(made.vocab_size)] == [b"\n", b"a", b"b", b"c", b""]
    assert made.encode("abc\n").tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("text", ["abé", "ab\U0010ffff", "aba"])
def test_an_unseen_character_is_named(text: str) -> None:
    made = train_chars(["ab"])
    if text == "aba":
        assert made.encode(text).tolist() == [0, 1, 0]
        return
    with pytest.raises(TokenizerProblem, match=rf"its 2 characters, came .*U\+{ord(text[2]):04X}\) at position 2;"):
        made.encode(text)
    with pytest.raises(TokenizerProblem, match="LATIN SMALL LETTER E WITH ACUTE"):
        made.encode("é")


def test_characters_of_nothing() -> None:
    made = train_chars([])
    assert (made.vocab_size, made.encode("").tolist()) == (1, [])
    with pytest.raises(TokenizerProblem, match="LATIN SMALL LETTER A"):
        made.encode("a")


# --- where GPT-2's vocabulary is found ---------------------------------------------------------------------------------------


def sha1(url: str) -> str:
    return hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()


@needs_gpt2
@pytest.mark.parametrize("file", ["gpt2.tiktoken", "vocab.bpe"])
@pytest.mark.parametrize("place", ["file", "folder", "cache", "tiktoken"])
def test_gpt2_is_found(gpt2: Tokenizer, file: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.mkdir()
    url = {"gpt2.tiktoken": ranks.RANK_FILE_URL, "vocab.bpe": ranks.MERGES_FILE_URL}[file]
    target = there / (sha1(url) if place == "tiktoken" else file)
    shutil.copy(GPT2_FOLDER / file, target)
    variable = {"cache": "DAYBREAK_CACHE", "tiktoken": "TIKTOKEN_CACHE_DIR"}.get(place, "DAYBREAK_GPT2_VOCAB")
    monkeypatch.setenv(variable, str(target if place == "file" else there))
    assert load_tokenizer("gpt2").encode(SAMPLE).tolist() == gpt2.encode(SAMPLE).tolist()


@needs_gpt2
def test_gpt2_is_downloaded_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(url: str, timeout: float) -> object:
        asked.append(url)
        return io.BytesIO((GPT2_FOLDER / "gpt2.tiktoken").read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert load_tokenizer("gpt2").vocab_size == load_tokenizer("gpt2").vocab_size == 50257
    assert asked == ["https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"]
    assert (tmp_path / "no-cache" / "gpt2.tiktoken").is_file()


@needs_gpt2
@pytest.mark.parametrize("file", ["gpt2.tiktoken", "vocab.bpe"])
@pytest.mark.parametrize("variable", ["DAYBREAK_GPT2_VOCAB", "DAYBREAK_CACHE"])
def test_a_flipped_byte_is_refused(file: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((GPT2_FOLDER / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(TokenizerProblem, match=rf"{file}: not GPT-2's vocabulary as published: wanted sha256 306cd27f03c1.* came"):
        load_tokenizer("gpt2")


def test_a_damaged_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(b"something else"))
    with pytest.raises(TokenizerProblem, match="wanted sha256 306cd27f"):
        load_tokenizer("gpt2")
    assert not list((tmp_path / "no-cache").iterdir())


def test_gpt2_that_is_nowhere_tells_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TokenizerProblem) as problem:
        load_tokenizer("gpt2")
    message = str(problem.value)
    for part in ("no-cache", "no-tiktoken-cache", "r50k_base.tiktoken", "no network in tests", "DAYBREAK_GPT2_VOCAB", "--tokenizer bpe"):
        assert part in message
    assert "\n" not in message
    monkeypatch.setenv("DAYBREAK_GPT2_VOCAB", str(tmp_path))
    with pytest.raises(TokenizerProblem, match=r"DAYBREAK_GPT2_VOCAB=.*found none"):
        load_tokenizer("gpt2")


@needs_gpt2
def test_merges_follow_from_ranks() -> None:
    content = (GPT2_FOLDER / "vocab.bpe").read_bytes()
    merges = ranks.parse_merges(content)
    assert ranks.merges_file(merges) == content
    gpt2_ranks = ranks.parse_rank_file((GPT2_FOLDER / "gpt2.tiktoken").read_bytes())
    assert ranks.ranks_of_merges(merges) == gpt2_ranks
    assert [(ranks.visible(left), ranks.visible(right)) for left, right in ranks.merges_of(gpt2_ranks)] == merges
    assert ranks.is_gpt2(gpt2_ranks)
    assert not ranks.is_gpt2({token: rank ^ 1 for token, rank in gpt2_ranks.items()})


# --- reading what others wrote -----------------------------------------------------------------------------------------------


@needs_gpt2
def test_gpt2_from_openais_two_files(gpt2: Tokenizer, tmp_path: Path) -> None:
    shutil.copy(GPT2_FOLDER / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(GPT2_FOLDER / "vocab.bpe", tmp_path / "merges.txt")
    for folder in (GPT2_FOLDER, tmp_path):
        again = load_tokenizer(folder)
        assert (again.name, again.fingerprint) == ("gpt2", gpt2.fingerprint)
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    lines[5], lines[6] = lines[6], lines[5]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TokenizerProblem, match="wanted merges in the order"):
        load_tokenizer(tmp_path)


def written_by_huggingface(learned: Tokenizer, folder: Path) -> dict:
    """The learned tokenizer as Hugging Face writes it out, merges as pairs."""
    learned.save(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    return json.loads(theirs.to_str())


def test_huggingfaces_own_form_is_read(learned: Tokenizer, tmp_path: Path) -> None:
    document = written_by_huggingface(learned, tmp_path)
    assert isinstance(document["model"]["merges"][0], list)
    for change in ({}, {"type": None}, {"continuing_subword_prefix": "", "end_of_word_suffix": ""}):
        model = {key: value for key, value in {**document["model"], **change}.items() if not (key == "type" and value is None)}
        files.write_json(tmp_path / "tokenizer.json", {**document, "model": model})
        assert load_tokenizer(tmp_path).fingerprint == learned.fingerprint


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("normalizer",), {"type": "NFC"}, "normalizer"),
        (("pre_tokenizer", "add_prefix_space"), True, "add_prefix_space True"),
        (("pre_tokenizer", "use_regex"), False, "use_regex False"),
        (("pre_tokenizer",), {"type": "Whitespace"}, "pre_tokenizer 'Whitespace'"),
        (("post_processor",), {"type": "TemplateProcessing"}, "post_processor 'TemplateProcessing'"),
        (("model", "dropout"), 0.1, "dropout 0.1"),
        (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix '</w>'"),
        (("model", "type"), "WordPiece", "model 'WordPiece'"),
        (("model", "vocab"), ["a"], "wanted a byte-level BPE model"),
        (("model", "merges"), [], "wanted merges in the order"),
        (("model", "merges"), ["a b c"], "wanted merges of two tokens"),
        (("added_tokens",), [{"id": 400, "content": "<pad>"}], "only added token, came '<pad>'"),
        (("added_tokens",), [{"id": 7, "content": END_OF_TEXT}], "as the last id, 399, came 7"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    learned: Tokenizer, tmp_path: Path, where: tuple[str, ...], value: object, message: str
) -> None:
    document = written_by_huggingface(learned, tmp_path)
    part = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    files.write_json(tmp_path / "tokenizer.json", document)
    with pytest.raises(TokenizerProblem, match=message):
        load_tokenizer(tmp_path)


def test_vocabularies_that_are_no_byte_level_bpe_are_refused(learned: Tokenizer, tmp_path: Path) -> None:
    document = written_by_huggingface(learned, tmp_path)
    vocab = document["model"]["vocab"]
    first = min(vocab, key=vocab.get)
    changes = {
        "0x21 first": {("zzz" if token == first else token): i for token, i in vocab.items()},
        "stands for no byte": {("\u2028" if token == first else token): i for token, i in vocab.items()},
        "some are missing or double": {token: 1 if i == 2 else i for token, i in vocab.items()},
        "do not merge into it": {"qqqq" if i == 398 else token: i for token, i in vocab.items()},
    }
    for message, changed in changes.items():
        files.write_json(tmp_path / "tokenizer.json", {**document, "model": {**document["model"], "vocab": changed}})
        with pytest.raises(TokenizerProblem, match=message):
            load_tokenizer(tmp_path)


def test_character_tokenizers_of_others_are_refused(characters: Tokenizer, tmp_path: Path) -> None:
    characters.save(tmp_path)
    document = files.read_json(tmp_path / "tokenizer.json")
    for change, message in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer"),
        ({"model": {**document["model"], "vocab": {"ab": 0, END_OF_TEXT: 1}}, "added_tokens": []}, "tokens of one character, came 'ab'"),
    ):
        files.write_json(tmp_path / "tokenizer.json", {**document, **change})
        with pytest.raises(TokenizerProblem, match=message):
            load_tokenizer(tmp_path)


def test_wrong_names_get_a_hint(tmp_path: Path) -> None:
    for name, message in (
        ("gpt-2", "did you mean gpt2"),
        ("byte", "did you mean bytes"),
        ("bpe", "daybreak tokenizer train"),
        (str(tmp_path), "found none"),
        (str(tmp_path / "nothing"), "nor a folder that exists"),
    ):
        with pytest.raises(TokenizerProblem, match=message):
            load_tokenizer(name)
    (tmp_path / "tokenizer.json").write_text("no json", encoding="utf-8")
    with pytest.raises(files.FileProblem, match="wanted JSON"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": null}', '{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}'])
def test_any_other_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerProblem, match="wanted a byte-level BPE model"):
        load_tokenizer(tmp_path)


# --- streams of bytes --------------------------------------------------------------------------------------------------------

pieces_of_text = st.lists(st.one_of(st.binary(max_size=5), st.text(max_size=4).map(str.encode)), max_size=30).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(content=pieces_of_text, cuts=st.lists(st.integers(0, 80)))
def test_a_stream_says_what_the_whole_says(content: bytes, cuts: list[int]) -> None:
    stream = Utf8Stream()
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pushed = [stream.push(content[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(pushed) + stream.flush() == content.decode("utf-8", "replace")
    assert stream.flush() == ""
    assert stream.push("é".encode()) == "é"  # as new


def test_a_stream_holds_back_half_a_character() -> None:
    stream = Utf8Stream()
    sunrise = "🌅".encode()
    assert [stream.push(bytes([b])) for b in sunrise] == ["", "", "", "🌅"]
    assert stream.push(sunrise[:2]) == ""
    assert stream.push(b"A") == "\ufffdA"
    assert stream.push(sunrise[:3]) + stream.flush() == "\ufffd"


def test_a_stream_of_tokens(each: Tokenizer) -> None:
    text = known_to(each, SAMPLE)
    stream = Utf8Stream()
    assert "".join(stream.push(each.token_bytes(int(i))) for i in each.encode(text)) == text
    assert stream.flush() == ""
