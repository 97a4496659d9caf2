"""Opens a report's workbook as a spreadsheet does and prints its sheets, cells and charts as JSON.

Usage: report.py FILE
"""

import json
import sys

from openpyxl import load_workbook


def chart(one):
    """The kind of a chart and the cells that it is drawn from."""
    series = []
    for part in one.series:
        categories = part.cat.numRef or part.cat.strRef
        series.append({"values": part.val.numRef.f, "categories": categories.f, "name": part.tx.strRef.f})
    title = "".join(run.t for paragraph in one.title.tx.rich.p for run in paragraph.r or [])
    return {"kind": type(one).__name__, "title": title, "series": series}


def text(value):
    """A cell as JSON has it."""
    return value if isinstance(value, (int, float, str)) or value is None else value.date().isoformat()


def main():
    """Prints everything."""
    book = load_workbook(sys.argv[1])
    sheets = [
        {
            "name": sheet.title,
            "rows": [[text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)],
            "charts": [chart(one) for one in sheet._charts],
            "paper": sheet.page_setup.paperSize,
        }
        for sheet in book.worksheets
    ]
    json.dump({"title": book.properties.title, "sheets": sheets}, sys.stdout)


if __name__ == "__main__":
    main()
