from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limelens.serve.bundle import Task
from limelens.train.data.dataset import read_dataset
from limelens.train.data.examples import DataError
from limelens.train.data.label_table import find_tables, read_label_tables, read_macro_labels
from limelens.train.data.listing import read_examples


def draw(folder: Path, *names: str) -> None:
    """Writes empty files, which suffice for reading tables; `image` writes real ones."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC).save(path)


def table(folder: Path, text: str, name: str = "train.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def labels_of(path: Path, images: Path | None = None) -> dict[str, tuple[str, ...]]:
    rows = read_label_tables({"all": path}, images).rows["all"]
    return {where.name: labels for where, labels in rows}


def test_one_hot_columns_are_the_labels(tmp_path: Path) -> None:
    draw(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = table(
        tmp_path, "Id,Genre,Drama,N/A,null,``1``,year\n"
        "a,\"['Drama', '``1``']\",1,0,0,1,1999\nb,['N/A'],0,1,0,0,2001\nc,['null'],0,0,1,0,2002\n",
    )  # fmt: skip
    found = read_label_tables({"all": path})
    assert found.labels == ("Drama", "N/A", "``1``", "null")
    assert found.task is Task.MULTILABEL
    assert labels_of(path) == {"a.jpg": ("Drama", "``1``"), "b.jpg": ("N/A",), "c.jpg": ("null",)}


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_one_hot_cells_are_read_as_spreadsheets_and_pandas_write_them(
    tmp_path: Path, yes: str, no: str
) -> None:
    draw(tmp_path, "a.jpg", "b.jpg")
    path = table(tmp_path, f"id,x,y\na,{yes},{no}\nb,{no},{no}\n")
    assert labels_of(path) == {"a.jpg": ("x",), "b.jpg": ()}
    assert read_label_tables({"all": path}).labels == ("x", "y")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("\"['Sci-Fi', 'N/A']\"", ("Sci-Fi", "N/A")),
        ('"[""Sci-Fi"", ""N\\/A""]"', ("Sci-Fi", "N/A")),
        ("\"('Sci-Fi', 'N/A')\"", ("Sci-Fi", "N/A")),
        ('"[Sci-Fi, N/A]"', ("Sci-Fi", "N/A")),
        ("Sci-Fi|N/A", ("Sci-Fi", "N/A")),
        ("Sci-Fi; N/A;", ("Sci-Fi", "N/A")),
        ("['it\\d']", ("it\\d",)),
        ("\"['a', 'a']\"", ("a",)),
        ("[]", ()),
    ],
)
def test_a_cell_may_hold_a_list_however_it_is_written(
    tmp_path: Path, cell: str, expected: tuple[str, ...]
) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = table(tmp_path, f"id,genre\n1,{cell}\n2,\"['b', 'c']\"\n")
    assert labels_of(path)["1.jpg"] == expected
    assert read_label_tables({"all": path}).task is Task.MULTILABEL


def test_an_empty_cell_among_lists_is_an_image_without_labels(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    assert labels_of(table(tmp_path, "id,tags\n1,\n2,a|b\n"))["1.jpg"] == ()


@pytest.mark.parametrize("label", ["N/A", "NA", "null", "nan", "``1``", "1", "(other)", "('a')"])
def test_single_labels_are_multiclass_and_taken_as_they_are(tmp_path: Path, label: str) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = table(tmp_path, f"file,kind,label\n1.jpg,x,{label}\n2.jpg,y,0\n")
    assert labels_of(path) == {"1.jpg": (label,), "2.jpg": ("0",)}
    assert read_label_tables({"all": path}).task is Task.MULTICLASS


def test_a_column_named_label_wins_over_flags_beside_it(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = table(tmp_path, "id,label,is_valid\n1,0,1\n2,1,1\n")
    assert labels_of(path) == {"1.jpg": ("0",), "2.jpg": ("1",)}


def test_codes_that_only_look_like_flags_are_labels(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = table(tmp_path, "id,class,code\n1,01,01\n2,02,01\n")
    assert labels_of(path) == {"1.jpg": ("01",), "2.jpg": ("02",)}


def test_a_byte_order_mark_and_tabs_are_read(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = tmp_path / "labels.tsv"
    path.write_bytes("id\tlabel\r\n1\tcafé\r\n\r\n2\tb\r\n".encode("utf-8-sig"))
    assert labels_of(path) == {"1.jpg": ("café",), "2.jpg": ("b",)}


def test_ids_may_have_a_suffix_a_folder_or_neither(tmp_path: Path) -> None:
    draw(tmp_path, "pics/x/1.jpg", "pics/2.PNG", "pics/v1.2.webp")
    path = table(tmp_path, "image,label\nx/1.jpg,a\n2,b\nv1.2,c\n")
    assert labels_of(path) == {"1.jpg": ("a",), "2.PNG": ("b",), "v1.2.webp": ("c",)}


def test_the_folder_of_images_is_found_or_given(tmp_path: Path) -> None:
    draw(tmp_path, "data/other/9.jpg", "data/Images/1.jpg", "data/Images/2.jpg", "far/1.jpg")
    path = table(tmp_path / "data", "id,label\n1,a\n2,b\n")
    found = read_label_tables({"all": path}).rows["all"]
    assert {where.parent.name for where, _ in found} == {"Images"}
    given = read_label_tables({"all": path}, tmp_path / "far")
    assert [where.parent.name for where, _ in given.rows["all"]] == ["far"]
    assert [skipped.path for skipped in given.missing] == [tmp_path / "far" / "2"]


def test_missing_images_are_skipped_and_listed(tmp_path: Path) -> None:
    lines = ["id,label"]
    for number in range(60):
        lines.append(f"{number},{'ab'[number % 2]}")
        if number != 7:
            image(tmp_path / f"{number}.png", number)
    table(tmp_path, "\n".join(lines))
    dataset = read_dataset(tmp_path)
    assert [(s.path.name, s.reason) for s in dataset.skipped] == [
        ("7", "the table names it, but no such file exists")
    ]
    assert sum(map(len, dataset.splits.values())) == 59
    for number in range(10):
        (tmp_path / f"{number}.png").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"10 of 60 files .* more than 5%"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n1,a\n2,b\n1,a\n", r"train\.csv, row 4: '1' is already in .* row 2"),
        ("id,label\n1,a\n1.jpg,b\n", r"train\.csv, row 3: '1\.jpg' is already in"),
        ("id,label\n1,a\n\n2\n", r"train\.csv, row 4 has 1 cell; expected 2"),
        ("id,label\n1,a,b\n", r"train\.csv, row 2 has 3 cells"),
        ("id,label,split\n1,a,train\n2,b,dev\n", r"train\.csv, row 3 has the split 'dev'"),
        ("id,label,split\n1,a,train\n2,b,\n", r"train\.csv, row 3 has the split ''"),
        ("id,label\n1,a\n2,\n", r"train\.csv, row 3 has no label; expected one"),
        ("id,x,y\n1,0,1\n2,1,\n", r"train\.csv, row 3 has nothing in column 'y'"),
        ("id,x,y,z\n1,0,1,1\n2,1,0,\n", r"train\.csv, row 3 has nothing in column 'z'"),
        ("id,x,x\n1,0,1\n2,1,0\n", r"train\.csv names a column twice"),
        ("id,genre\n1,['a' 'b']\n", r"train\.csv, row 2 has the labels \['a' 'b'\]"),
        ('id,genre\n1,"[[""a""], ""b""]"\n', r"train\.csv, row 2 .* expected a list of names"),
        ("id,genre\n1,[null]\n", r"train\.csv, row 2 .* expected a list of names"),
        ("id\n1\n", r"train\.csv has the columns \['id'\]; expected one with labels"),
        ("id,label\n", r"train\.csv has 1 row;"),
        ("", r"train\.csv has 0 rows"),
        ("id,label\n8,a\n9,b\n", r"no image that the table names exists, such as .*8;"),
        (f"id,label\n{'long' * 200},a\n", "no image that the table names exists"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_file_and_row(
    tmp_path: Path, text: str, message: str
) -> None:
    draw(tmp_path, "1.jpg", "2.jpg")
    path = table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        labels_of(path)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes("id,label\n1,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.csv cannot be read as a table in UTF-8"):
        labels_of(path)


def test_tables_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("train.csv", "Validation.tsv", "macro.csv", "notes.csv"):
        table(tmp_path, "id,label\n", name)
    assert {split: path.name for split, path in find_tables(tmp_path).items()} == {
        "train": "train.csv", "val": "Validation.tsv",
    }  # fmt: skip
    assert list(find_tables(tmp_path / "train.csv")) == ["all"]
    table(tmp_path, "", "val.csv")
    with pytest.raises(DataError, match=r"has Validation\.tsv and val\.csv; expected one of them"):
        find_tables(tmp_path)


def test_a_table_of_all_beside_one_of_a_split_is_refused(tmp_path: Path) -> None:
    table(tmp_path, "", "labels.csv")
    assert list(find_tables(tmp_path)) == ["all"]
    table(tmp_path, "", "test.csv")
    with pytest.raises(DataError, match=r"has labels\.csv beside test\.csv; expected either"):
        find_tables(tmp_path)


def split_rows(start: int, count: int) -> str:
    return "".join(f"{n},{'a|b' if n % 3 else 'c'}\n" for n in range(start, start + count))


def test_a_table_for_each_split_gives_the_splits(tmp_path: Path) -> None:
    for number in range(24):
        image(tmp_path / "img" / f"{number}.png", number)
    table(tmp_path, "id,tags\n" + split_rows(0, 12))
    table(tmp_path, "id,tags\n" + split_rows(12, 6), "val.csv")
    table(tmp_path, "id,tags\n" + split_rows(18, 6), "test.csv")
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("a", "b", "c")
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {
        "train": 12, "val": 6, "test": 6,
    }  # fmt: skip
    assert dataset.counts("val") == {"a": 4, "b": 4, "c": 2}
    assert read_examples(tmp_path, ["c", "b", "a"])[0] == "test"
    table(tmp_path, "id,tags\n3,c\n", "val.csv")
    with pytest.raises(DataError, match=r"val\.csv, row 2: '3' is already in .*train\.csv"):
        read_dataset(tmp_path)


def test_a_column_may_name_the_split(tmp_path: Path) -> None:
    lines = ["id,split,label"]
    for number in range(20):
        image(tmp_path / f"{number}.png", number)
        lines.append(f"{number},{'Validation' if number < 6 else 'train'},{'ab'[number % 2]}")
    table(tmp_path, "\n".join(lines), "labels.csv")
    dataset = read_dataset(tmp_path)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"val": 6, "train": 14}


def test_a_lone_table_is_divided_the_same_way_for_the_same_seed(tagged: Path) -> None:
    first, again, other = (read_dataset(tagged, seed=seed) for seed in (1, 1, 2))
    assert first.task is Task.MULTILABEL
    assert first.labels == ("N/A", "blue", "green", "red")
    assert first.splits == again.splits
    assert first.splits != other.splits
    assert first.digest == again.digest == read_dataset(tagged / "train.csv").digest
    assert 10 <= len(first.splits["val"]) <= 14
    assert 10 <= len(first.splits["test"]) <= 14
    paths = [example.path for rows in first.splits.values() for example in rows]
    assert len({*paths}) == 120


def test_changed_labels_change_the_digest(tagged: Path, tmp_path: Path) -> None:
    header, first, *others = (tagged / "train.csv").read_text().splitlines()
    turned = first[:-1] + str(1 - int(first[-1]))
    path = table(tmp_path, "\n".join([header, turned, *others]))
    before = read_dataset(tagged).digest
    assert read_dataset(path, images=tagged / "Images").digest != before


def test_a_table_of_one_label_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "1.jpg")
    table(tmp_path, "id,label\n1,a\n")
    with pytest.raises(DataError, match=r"has 1 label \['a'\]; expected at least two"):
        read_dataset(tmp_path)


def test_an_image_with_several_labels_is_refused_for_multiclass(tagged: Path) -> None:
    with pytest.raises(DataError, match=r"has [23] labels in .*multiclass expects one each"):
        read_dataset(tagged, task=Task.MULTICLASS)


def test_macro_labels_are_read_from_beside_the_data(tmp_path: Path) -> None:
    for number in range(20):
        image(tmp_path / "pics" / f"{number}.png", number)
    table(tmp_path, "id,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(20)))
    table(tmp_path, "label,macro\nb,letters\na,letters\nunused,digits\n", "macro.csv")
    assert read_dataset(tmp_path).macro_labels == {"a": "letters", "b": "letters"}
    other = table(tmp_path, "label\tmacro\na\tfirst\nb\tsecond\n", "other.tsv")
    assert read_dataset(tmp_path, macro=other).macro_labels == {"a": "first", "b": "second"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,macro\na,x\n", r"macro\.csv has no superclass for 'b'"),
        ("label,macro\na,x\nb,y\na,y\n", r"puts 'a' under 'x' and 'y'"),
        ("label,macro\na,x\n\nb,\n", r"macro\.csv, row 4: .* expected a label and its superclass"),
        ("label\na\n", r"macro\.csv, row 2"),
    ],
)
def test_macro_labels_that_cannot_be_used_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_macro_labels(table(tmp_path, text, "macro.csv"), ("a", "b"))


def test_real_posters_have_the_labels_of_their_table(data_folder: Path) -> None:
    posters = data_folder / "posters"
    found = read_label_tables(find_tables(posters))
    rows = found.rows["all"]
    assert len(found.labels) == 25
    assert found.task is Task.MULTILABEL
    assert len(rows) + len(found.missing) == 6517
    assert sum("N/A" in labels for _, labels in rows) == 8
    # The one-hot columns repeat the list column.
    listed = (posters / "train.csv").read_text().splitlines()[1]
    assert rows[0][0].stem == listed.split(",")[0]
    assert all(repr(label) in listed for label in rows[0][1])


@pytest.mark.slow
def test_real_posters_are_divided_the_same_way_every_time(data_folder: Path) -> None:
    first, again = (read_dataset(data_folder / "posters", seed=3) for _ in range(2))
    assert first.splits == again.splits
    counts = {split: len(rows) for split, rows in first.splits.items()}
    total = sum(counts.values())
    assert abs(counts["train"] - 0.8 * total) < 0.01 * total
    assert abs(counts["val"] - counts["test"]) < 0.01 * total
    assert all(first.counts("val")[label] for label in first.labels if first.counts("train")[label])


def test_images_that_are_links_out_of_the_folder_are_read(tmp_path: Path) -> None:
    image(tmp_path / "store" / "1.png", 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.png").symlink_to(tmp_path / "store" / "1.png")
    path = table(tmp_path / "data", "id,label\n1,a\n")
    assert labels_of(path) == {"1.png": ("a",)}
