"""Training texts as people have them: formats, folders, duplicates, the held-out slice, pairs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sro_edge.errors import InputError
from sro_edge.training.piles import read_labelled, read_pairs, read_pile, read_texts

TEXTS = [f"comment number {i}" for i in range(200)]


def test_texts_are_read_from_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["from parquet", None, " "]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text('text,label\n"two\nlines",0\nyou fool,1\n')
    (tmp_path / "c.jsonl").write_text('{"text": "good day", "label": 0}\n{"text": ""}\n')
    (tmp_path / "d.tsv").write_text("label\ttext\n1\ttabbed\n")
    (tmp_path / "e.txt").write_text("a line\n\nanother\n")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "notes.md").write_text("not data")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "f.txt").write_text("deep down")
    expected = ["from parquet", "two\nlines", "you fool", "good day", "tabbed", "a line", "another"]
    assert read_texts(sorted(tmp_path.glob("[a-e].*"))) == expected
    assert sorted(read_texts([tmp_path])) == sorted([*expected, "deep down"])


def test_labelled_texts_come_with_their_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,source\nhello there,0,x\nyou fool,1,y\n")
    (tmp_path / "b.jsonl").write_text('{"text": "good day", "label": 0}\n')
    both = [tmp_path / "a.csv", tmp_path / "b.jsonl"]
    texts = ["hello there", "you fool", "good day"]
    assert read_labelled(both) == (texts, [0, 1, 0], ["x", "y", "b"])


def test_what_is_no_text_gets_a_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"score": [1, 2], "body": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text'; its columns of strings are: 'body'"):
        read_texts([tmp_path / "a.parquet"])
    with pytest.raises(InputError, match=r"column 'score' of .* holds int64, not strings"):
        read_texts([tmp_path / "a.parquet"], "score")
    with pytest.raises(InputError, match=r"read from \.parquet, .*\.txt, not"):
        read_texts([tmp_path / "c.xlsx"])
    with pytest.raises(InputError, match="does not exist"):
        read_texts([tmp_path / "c.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no files that end in \.parquet"):
        read_texts([tmp_path / "empty"])
    (tmp_path / "blank.txt").write_text("\n  \n")
    with pytest.raises(InputError, match="every row of column 'text' is empty"):
        read_pile([tmp_path / "blank.txt"])


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join([*TEXTS, "Comment  number 7", "COMMENT NUMBER 8 "]))
    pile = read_pile([tmp_path / "a.txt"], held_out=0.1)
    assert pile.duplicates == 2
    assert sorted(pile.comments + pile.held_out) == sorted(TEXTS)
    assert len(pile.held_out) == 20


def test_the_held_out_slice_depends_on_the_texts_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    (tmp_path / "b.txt").write_text("\n".join(reversed(TEXTS)))
    one, two = (read_pile([tmp_path / f"{name}.txt"], held_out=0.1) for name in "ab")
    assert set(one.held_out) == set(two.held_out)
    wider = read_pile([tmp_path / "a.txt"], held_out=0.2)
    assert set(one.held_out) < set(wider.held_out)


def test_pairs_are_two_columns(tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text('toxic\tneutral\nyou idiot\tyou "there"\nfool\t\n')
    assert read_pairs(tmp_path / "two.tsv") == [("you idiot", 'you "there"')]
    (tmp_path / "three.csv").write_text("id,toxic,neutral\n1,you idiot,you there\n")
    with pytest.raises(InputError, match=r"pairs need two.*--pairs-columns"):
        read_pairs(tmp_path / "three.csv")
    assert read_pairs(tmp_path / "three.csv", ("toxic", "neutral")) == [("you idiot", "you there")]
    with pytest.raises(InputError, match="no row with text in both 'id' and 'toxic'"):
        read_pairs(tmp_path / "three.csv", ("id", "toxic"))
    with pytest.raises(InputError, match="no column 'clean'"):
        read_pairs(tmp_path / "three.csv", ("toxic", "clean"))
