"""Tables whose fields are separated or held together in another way are read, or named with the way to mend them."""

from __future__ import annotations

import pytest

from pyg_ckd.datasets import load
from pyg_ckd.datasets.delimited import read_csv
from pyg_ckd.errors import InputError
from tests.datasets.test_files_as_they_are import ITEMS, ROWS, inter, lines, pairs, table


def refuses(folder, *words: str) -> None:
    with pytest.raises(InputError) as error:
        load(folder)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "rename" not in message


@pytest.mark.parametrize("mark", ["^", "~", "#", "¦", "\x01", "\\t", ":", "/", ".", "-"])
@pytest.mark.parametrize("header", ["user,item", "User,Item,rating", '"user","item"'])
def test_other_separators_are_named_with_those_that_are_read(tmp_path, mark, header):
    content = lines([(*row, 1) for row in ROWS] if "rating" in header else ROWS, mark, header)
    refuses(table(tmp_path / "d", content), f"interactions.csv: {mark[:1]!r}"[:-1], "expected one of , ; | :: or tabs")


@pytest.mark.parametrize("mark", ["^", "~", "#", "¦", "\x01"])
def test_other_separators_are_named_where_the_header_is_missing(tmp_path, mark):
    refuses(table(tmp_path / "d", lines(ROWS[1:], mark, "0,1")), f"{mark!r} separates", "below a line like 'user,item'")


@pytest.mark.parametrize("header", ["item^title", "item\x01title"])
def test_other_separators_of_lists_of_items_are_named(tmp_path, header):
    folder = table(tmp_path / "d", lines(ROWS))
    (folder / "items.csv").write_text(f"{header}\n" + "".join(f"{n}{header[4]}x\n" for n in range(ITEMS)))
    refuses(folder, f"items.csv: {header[4]!r} separates the fields")


@pytest.mark.parametrize("header", ["item-id", "item:token", "item_number"])
def test_names_with_marks_are_names(tmp_path, header):
    folder = table(tmp_path / "d", lines(ROWS))
    (folder / "items.csv").write_text(f"{header}\n" + "".join(f"{n}\n" for n in range(ITEMS)))
    with pytest.raises(InputError, match=f"rename '{header}' to 'item'"):
        load(folder)


@pytest.mark.parametrize(("mark", "name"), [("^", r"'\^'"), ("\x01", r"'\\x01'"), ("\\t", "a backslash and a t")])
def test_other_separators_of_atomic_files_are_named(tmp_path, mark, name):
    for header in ("user_id:token,item_id:token", "userID,itemID,x_label"):
        rows = [(*row, 0) for row in ROWS] if "x_label" in header else ROWS
        with pytest.raises(InputError, match=rf"the header is separated by {name}, expected tabs: write the file with"):
            load(inter(tmp_path / header[:5], lines(rows, mark, header)))


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;", "sep=,", "sep=\t"])
def test_the_line_that_tells_excel_the_separator_is_named(tmp_path, line):
    refuses(table(tmp_path / "d", f"{line}\n" + lines(ROWS, line.strip('"')[-1])), "tells Excel", "remove this line")


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
def test_single_quotation_marks_are_named(tmp_path, sep):
    content = lines([(f"'{u}'", f"'{i}'") for u, i in ROWS], sep, "'user','item'")
    refuses(table(tmp_path / "d", content), "in single quotation marks", 'quotechar="\'"')


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("header", ["user,item,title", '"user","item","title"'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_ids_between_quotation_marks_are_read_without_them(tmp_path, sep, header, encoding):
    held = "a" if sep in ("\t", "::") and '"' not in header else f"a{sep} "  # Else it is more fields, see below.
    rows = [(f'"{u}"', f'"{i}"', f'"{held}""b"""') for u, i in ROWS]
    assert pairs(load(table(tmp_path / "d", lines(rows, sep, header).encode(encoding)))) == sorted(ROWS)
    rows = [(f'"0{u}"', f'"{i}"', "x") for u, i in ROWS]
    assert pairs(load(table(tmp_path / "e", lines(rows, sep, header)))) == sorted((f"0{u}", i) for u, i in ROWS)


def test_a_quotation_mark_that_is_not_closed_is_named_with_its_line(tmp_path):
    for place in (0, 5, len(ROWS) - 1):
        for above in ("", "\n\n"):
            rows = [(*row, '"Great' if k == place else "fine") for k, row in enumerate(ROWS)]
            folder = table(tmp_path / f"d{place}{len(above)}", above + lines(rows, header="user,item,review"))
            refuses(folder, f"a quotation mark in line {place + 2 + len(above)} is not closed", "close or remove it")


@pytest.mark.parametrize("sep", ["\t", "::"])
def test_fields_are_counted_as_they_are_read(tmp_path, sep):
    rows = [(*row, f'"a{sep} b"') for row in ROWS]
    folder = table(tmp_path / "d", lines(rows, sep, "user,item,title"))
    refuses(
        folder, "line 2 has 4 fields, but the header names 3", "put the names of the header between quotation marks"
    )


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
def test_a_line_that_is_too_long_is_named(tmp_path, sep):
    content = lines([*ROWS[:5], (0, 1, 2), *ROWS[5:]], sep)
    refuses(table(tmp_path / "d", content), "line 7 has 3 fields, but the header names 2", "repair the line")


@pytest.mark.parametrize("above", ["\n", "\n\n", "  \n", "\t\t\n", "\r\n"])
@pytest.mark.parametrize("header", ["user_id:token,item_id:token,time:float", "userID,itemID,x_label"])
def test_blank_lines_above_the_header_are_skipped(tmp_path, above, header):
    content = above + lines([(*row, 0) for row in ROWS], "\t", header)
    assert pairs(load(inter(tmp_path / "d", content))) == sorted(ROWS)
    assert pairs(load(table(tmp_path / "c", above + lines(ROWS)))) == sorted(ROWS)
    assert pairs(load(table(tmp_path / "t", above + lines(ROWS, "\t")))) == sorted(ROWS)
    with pytest.raises(InputError, match=f"Expected 3 fields in line {above.count(chr(10)) + 2}, saw 4"):
        load(inter(tmp_path / "e", above + lines([(*row, 0, 0) for row in ROWS], "\t", header)))


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_separators_between_quotation_marks_are_characters(tmp_path, sep, encoding):
    content = f'"item"{sep}"a{sep}b"{sep}"n"\n"x{sep}1"{sep}"Se7en{sep} y"{sep}1\n"z"{sep}{sep}2\n'
    (tmp_path / "a.csv").write_text(content, encoding=encoding, newline="")
    frame = read_csv(tmp_path / "a.csv", ("item",))
    assert frame.columns.tolist() == ["item", f"a{sep}b", "n"]
    assert frame.iloc[0].tolist() == [f"x{sep}1", f"Se7en{sep} y", 1]
    assert frame.isna().sum().tolist() == [0, 1, 0]
    (tmp_path / "a.csv").write_text(content + f"1{sep}2{sep}3{sep}4\n", encoding=encoding, newline="")
    with pytest.raises(InputError, match="line 4 has 4 fields, but the header names 3") as error:
        read_csv(tmp_path / "a.csv", ("item",))
    assert repr(f"item{sep}a{sep}b{sep}n") in str(error.value)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", "::"])
def test_an_open_quotation_mark_that_a_later_one_closes_is_named(tmp_path, sep):
    lines_of_text = ['"item"::"title"', '1::"a', "2::b", '3::c"', "4::d"]
    (tmp_path / "a.csv").write_text("\n".join(lines_of_text).replace("::", sep))
    with pytest.raises(InputError, match=r"begins in line 2 runs to line 4, .* remove the quotation mark in line 2"):
        read_csv(tmp_path / "a.csv", ("item",))
    lines_of_text[2] = '"2"::"b"'
    (tmp_path / "a.csv").write_text("\n".join(lines_of_text).replace("::", sep))
    with pytest.raises(InputError, match=r"if a quotation mark in line 2 is not closed, close or remove it, else name"):
        read_csv(tmp_path / "a.csv", ("item",))


@pytest.mark.parametrize("sep", ["\t", "::"])
@pytest.mark.parametrize("last", ["x", '5"', '"y'])
def test_quotation_marks_that_lose_lines_are_characters(tmp_path, sep, last):
    rows = [(f'"{u}"', f'"{i}"', '"5"" disc' if n == 0 else last) for n, (u, i) in enumerate(ROWS)]
    assert pairs(load(table(tmp_path / "d", lines(rows, sep, "user,item,title")))) == sorted(ROWS)
    rows = [(f'"0{u}"', i, title) for u, (_, i, title) in zip([u for u, _ in ROWS], rows, strict=True)]
    assert pairs(load(table(tmp_path / "e", lines(rows, sep, "user,item,title")))) == sorted(
        (f"0{u}", i) for u, i in ROWS
    )


REVIEW = '"Pros:\nfast,cheap,good\nsmall,light,red\nCons: none"'


@pytest.mark.parametrize("users", ["u0,u1,u0,u2", "0,1,0,2"], ids=["texts", "numbers"])
def test_texts_of_several_lines_with_as_many_fields_as_the_header_are_read(tmp_path, users):
    rows = [(u, f"i{n % 3}", REVIEW if n == 1 else "fine") for n, u in enumerate(users.split(","))]
    folder = table(tmp_path / "d", lines(rows, header="user,item,review"))
    (folder / "items.csv").write_text("item\n" + "\n".join(f"i{n}" for n in range(ITEMS)))
    assert len(pairs(load(folder))) == 4


@pytest.mark.parametrize("last", ["u2,i1", "u9,i1", "u2,i9"], ids=["both known", "new user", "new item"])
def test_a_line_of_which_any_id_is_known_is_still_a_row(tmp_path, last):
    content = f'user,item,review\nu0,i0,"Great\n{last},fine\nu1,i1,ok"\nu2,i1,x\n'
    with pytest.raises(InputError, match="field that begins in line 2 runs to line 4, over lines that are rows of"):
        load(table(tmp_path / "d", content))
