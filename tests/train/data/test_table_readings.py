"""Tables that can be read in several ways: certain readings, refused ones, and options."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from limelens.serve.bundle import Task
from limelens.train.data.examples import DataError
from limelens.train.data.label_table import (
    LabelTable,
    read_label_tables,
    read_macro_labels,
    table_options,
    table_settings,
)
from limelens.train.data.listing import list_data, read_examples
from limelens.train.data.tables.table import TableOptions


def draw(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path, *(f"img/p{number}.jpg" for number in range(12)))
    return tmp_path


def read(folder: Path, header: str, *rows: str, **options: object) -> LabelTable:
    """Rows are repeated until each of the twelve images, named in the first column, has one."""
    lines = [header, *(f"p{number}.jpg,{rows[number % len(rows)]}" for number in range(12))]
    path = folder / "t.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_label_tables({"all": path}, TableOptions(**options))  # type: ignore[arg-type]


def refused(folder: Path, header: str, *rows: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, header, *rows, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "-1"), ("1.0", "-1.0"), ("yes", "no"), ("Y", "N"), ("TRUE", "FALSE")]
)
def test_every_pair_of_yes_and_no_is_read(folder: Path, yes: str, no: str) -> None:
    found = read(folder, "image_id,Bald,Male", f"{yes},{no}", f"{no},{yes}")
    assert found.task is Task.MULTILABEL
    assert found.labels == ("Bald", "Male")
    assert [labels for _, labels in found.rows["all"][:2]] == [("Bald",), ("Male",)]


@pytest.mark.parametrize("rows", [("1,-1", "0,1"), ("-1,0", "1,1"), ("1,0", "0,-1")])
def test_minus_one_beside_zero_is_refused(folder: Path, rows: tuple[str, str]) -> None:
    assert "-1 could mean no or unknown" in refused(folder, "image,A,B", *rows)


def test_a_label_column_overrides_flags_that_differ(folder: Path) -> None:
    found = read(folder, "filename,category,verified,cropped", "cat,1,0", "dog,0,1", "cat,0,0")
    assert (found.task, found.labels) == (Task.MULTICLASS, ("cat", "dog"))
    assert "not read: 'verified', 'cropped'" in found.notes[0]


def test_flags_beside_a_column_of_another_name_are_refused(folder: Path) -> None:
    rows = ("filename,kind,verified,cropped", "cat,1,0", "dog,0,1", "cat,0,0")
    message = refused(folder, *rows)
    assert "--label-column" in message
    assert "'kind'" in message
    assert "--columns all" in message
    assert read(folder, *rows, label_column="kind").labels == ("cat", "dog")
    assert read(folder, *rows, columns=("all",)).labels == ("cropped", "verified")
    assert read(folder, *rows, columns=("verified", "cropped")).task is Task.MULTILABEL


def test_two_columns_of_labels_are_refused_unless_they_are_equivalent(folder: Path) -> None:
    assert "'label', 'tags'" in refused(folder, "image,label,tags", "a,x", "b,x", "b,y")
    assert read(folder, "image,target,class", "0,cat", "1,dog").labels == ("cat", "dog")


def test_columns_without_a_name_for_labels_are_refused(folder: Path) -> None:
    assert "--label-column" in refused(folder, "image,width,species", "10,cat", "20,dog", "10,dog")
    assert read(folder, "image,species", "cat", "dog").labels == ("cat", "dog")


def test_titles_and_numbers_of_each_row_are_no_labels(folder: Path) -> None:
    rows = [f"title {number},{number % 2},{number % 3 % 2}" for number in range(12)]
    assert read(folder, "image,title,Drama,War", *rows).labels == ("Drama", "War")


@pytest.mark.parametrize(
    ("header", "rows", "separator"),
    [
        ("image,labels", ('"mask, hat"', '"mask, glasses"'), ","),
        ("image,label", ('"Paris, France"', '"Rome, Italy"'), ","),
        ("image,tags", ("clear primary", "clear primary water"), "blank"),
        ("image,tags", ("haze primary", "clear primary", "clear water"), "blank"),
        ("image,label", ("cat dog", "dog cat", "cat"), "blank"),
        ("image,label", ("cat/dog", "dog", "bird"), "/"),
        ("image,label", ("cat+dog", "cat+bird"), "+"),
    ],
)
def test_cells_that_look_like_lists_are_refused(
    folder: Path, header: str, rows: tuple[str, ...], separator: str
) -> None:
    message = refused(folder, header, *rows)
    assert "--separator none" in message
    several = read(folder, header, *rows, separator=separator)
    assert several.task is Task.MULTILABEL
    assert all(" " not in label and separator not in label for label in several.labels)
    one = read(folder, header, *rows, separator="none")
    assert (one.task, len(one.labels)) == (Task.MULTICLASS, len({*rows}))


@pytest.mark.parametrize(
    "rows", [("with mask", "without mask"), ("golden retriever", "tabby cat"), ("N/A", "n/b")]
)
def test_labels_of_several_words_are_labels(folder: Path, rows: tuple[str, ...]) -> None:
    assert read(folder, "image,label", *rows).task is Task.MULTICLASS


def test_two_separators_in_one_column_are_refused(folder: Path) -> None:
    assert "both | and ;" in refused(folder, "image,tags", "a|b", "b;c")


@pytest.mark.parametrize("first", ["p0.jpg,cat", "gone.jpg,cat", "p0,dog"])
def test_a_first_line_that_names_an_image_is_not_a_header(folder: Path, first: str) -> None:
    assert "not a header" in refused(folder, first, "cat", "dog")


def test_a_first_line_with_a_known_label_is_not_a_header(folder: Path) -> None:
    assert "not a header" in refused(folder, "gone,cat", "cat", "dog")


def test_a_header_may_have_the_name_of_a_file(folder: Path) -> None:
    draw(folder, "img/image.jpg")
    assert read(folder, "image,label", "cat", "dog").labels == ("cat", "dog")


def test_the_column_whose_cells_are_files_names_the_images(folder: Path) -> None:
    lines = ["id,label,photo", *(f"{n + 100},{'ab'[n % 2]},p{n}.jpg" for n in range(12))]
    path = folder / "t.csv"
    path.write_text("\n".join(lines))
    found = read_label_tables({"all": path})
    assert found.labels == ("a", "b")
    assert found.rows["all"][0][0].name == "p0.jpg"
    assert "images by 'photo'" in found.notes[0]


def test_two_columns_of_different_images_are_refused(folder: Path) -> None:
    draw(folder, *(f"img/m{number}.png" for number in range(12)))
    lines = ["before,after,label", *(f"p{n},m{n},{'ab'[n % 2]}" for n in range(12))]
    path = folder / "t.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="--image-column"):
        read_label_tables({"all": path}, TableOptions(label_column="label"))
    found = read_label_tables({"all": path}, TableOptions(image_column="after"))
    assert found.rows["all"][0][0].name == "m0.png"


def test_images_in_two_folders_are_refused(folder: Path) -> None:
    draw(folder, *(f"small/p{number}.jpg" for number in range(12)))
    assert "--images" in refused(folder, "image,label", "a", "b")
    found = read(folder, "image,label", "a", "b", images=folder / "small")
    assert found.rows["all"][0][0].parent.name == "small"


def test_hidden_folders_hold_no_images(folder: Path) -> None:
    draw(folder, *(f".thumbnails/p{number}.jpg" for number in range(12)))
    assert read(folder, "image,label", "a", "b").rows["all"][0][0].parent.name == "img"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_may_be_separated_as_spreadsheets_of_some_countries_do(
    folder: Path, separator: str
) -> None:
    path = folder / "t.csv"
    rows = [separator.join((f"p{n}.jpg", "ab"[n % 2])) for n in range(12)]
    path.write_text("\n".join([separator.join(("image", "label")), *rows]))
    assert read_label_tables({"all": path}).labels == ("a", "b")


def test_paths_may_be_written_as_windows_does(folder: Path) -> None:
    path = folder / "t.csv"
    path.write_text("image,label\n" + "".join(f"img\\p{n}.jpg,{'ab'[n % 2]}\n" for n in range(12)))
    assert len(read_label_tables({"all": path}).rows["all"]) == 12


def test_splits_may_be_named_by_another_column(folder: Path) -> None:
    found = read(folder, "image,set,label", "Training,a", "testing,b", "Valid,a")
    assert {split: len(rows) for split, rows in found.rows.items()} == {
        "train": 4, "test": 4, "val": 4,
    }  # fmt: skip


def test_options_that_name_no_column_are_refused(folder: Path) -> None:
    assert "no column 'nowhere' (--label-column)" in refused(
        folder, "image,label", "a", "b", label_column="nowhere"
    )
    assert "'x' in 'label' (--columns)" in refused(
        folder, "image,label,A,B", "x,1,0", "y,0,1", columns=("label", "A")
    )


def test_options_for_tables_are_refused_for_folders(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(DataError, match="has no table"):
        list_data(tmp_path, TableOptions(label_column="label"))


def test_a_note_in_one_line_describes_how_a_table_was_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read(folder, "image,label", "a", "b")
    with caplog.at_level(logging.INFO, "limelens.train"):
        list_data(folder / "t.csv")
        read_examples(folder / "t.csv", ["a", "b"])
    expected = f"{folder / 't.csv'}: images by 'image' in {folder / 'img'}; labels in 'label'"
    assert caplog.messages == [expected, expected]


def test_tables_of_splits_must_be_read_the_same_way(folder: Path) -> None:
    (folder / "train.csv").write_text("image,A,B\np0,1,0\np1,0,1\n")
    (folder / "val.csv").write_text("image,A,C\np2,1,0\np3,0,1\n")
    with pytest.raises(DataError, match=r"read differently: .*'B'"):
        list_data(folder)


def test_labels_have_one_unicode_form_everywhere(folder: Path) -> None:
    found = read(folder, "image,label", "ma\u0301scara", "máscara", "none")
    assert found.labels == ("máscara", "none")


def test_macro_labels_without_a_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "macro.csv"
    path.write_text("a,x\nb,y\n")
    with pytest.raises(DataError, match="begins with the label 'a'"):
        read_macro_labels(path, ("a", "b"))


def test_a_run_remembers_the_options_of_its_table(tmp_path: Path) -> None:
    options = TableOptions(tmp_path, "file", "", ("A", "B"), "")
    assert table_options(table_settings(options)) == options
    assert table_settings(None) == {"images": None}
