//! A report as a workbook: a sheet for each subject, its chart beside its numbers, ready for print on A4.
//!
//! Invariants: every number is a number, metres as metres and days as days, so that sums and filters work; charts refer
//! to the cells of their own sheet; the same report gives the same bytes.

use rust_xlsxwriter::{
    Chart, ChartSolidFill, ChartType, Color, DocProperties, ExcelDateTime, Format, FormatAlign, Workbook, Worksheet,
    XlsxError,
};

use super::words as w;
use super::{Figures, Growth, Language, OutputFigures, Paper, Part};
use crate::digitization::calendar::Day;

const INK: u32 = 0x0B_4F_B3;
const WARN: u32 = 0xC6_6A_1E;
const SOFT: u32 = 0x8A_8A_96;
/// A4 in Excel's list of paper sizes.
const A4: u8 = 9;

struct Formats {
    title: Format,
    head: Format,
    name: Format,
    count: Format,
    metres: Format,
    share: Format,
    tenth: Format,
    hundredth: Format,
    day: Format,
    note: Format,
}

impl Formats {
    fn new() -> Self {
        let base = || Format::new().set_align(FormatAlign::VerticalCenter);
        Self {
            title: base().set_bold().set_font_size(16),
            head: base().set_bold().set_text_wrap().set_border_bottom(rust_xlsxwriter::FormatBorder::Thin),
            name: base(),
            count: base().set_num_format("#,##0"),
            metres: base().set_num_format("#,##0.000"),
            share: base().set_num_format("0.0 %"),
            tenth: base().set_num_format("0.0"),
            hundredth: base().set_num_format("0.00"),
            day: base().set_num_format("yyyy-mm-dd").set_align(FormatAlign::Left),
            note: base().set_italic(),
        }
    }
}

/// A value of a cell.
enum Cell<'a> {
    Text(&'a str),
    Count(i64),
    Metres(i64),
    Day(Day),
}

struct Book<'a> {
    workbook: Workbook,
    formats: Formats,
    language: Language,
    figures: &'a Figures,
}

pub(super) fn write(paper: &Paper, language: Language) -> Result<Vec<u8>, XlsxError> {
    let figures = paper.figures();
    let mut book = Book { workbook: Workbook::new(), formats: Formats::new(), language, figures };
    let made_ms = paper.issued().map_or(i64::from(figures.to.0) * 86_400_000, |issued| issued.issued_ms);
    let properties = DocProperties::new()
        .set_title(format!("{}: {}", figures.project, language.title(figures.period)))
        .set_author("Veghe")
        .set_creation_datetime(&ExcelDateTime::from_timestamp(made_ms / 1000)?);
    book.workbook.set_properties(&properties);
    book.summary(paper)?;
    book.days()?;
    book.progress()?;
    book.stages()?;
    book.stations()?;
    book.rework()?;
    book.billing()?;
    book.corrections()?;
    book.workbook.save_to_buffer()
}

fn excel_day(day: Day) -> Result<ExcelDateTime, XlsxError> {
    let date = day.date();
    ExcelDateTime::from_ymd(date.year().unsigned_abs(), date.month().unsigned_abs(), date.day().unsigned_abs())
}

impl Book<'_> {
    fn t(&self, word: w::Word) -> &'static str {
        self.language.of(word)
    }

    /// A new sheet with the widths of its columns, and a header and footer for print.
    fn sheet(&mut self, name: w::Word, widths: &[f64]) -> Result<&mut Worksheet, XlsxError> {
        let name = self.t(name);
        // `&` begins a field in headers.
        let header = format!("&L{}&R{}", self.figures.project.replace('&', "&&"), self.figures.period);
        let sheet = self.workbook.add_worksheet();
        sheet.set_name(name)?;
        sheet.set_paper_size(A4).set_landscape().set_print_fit_to_pages(1, 0);
        sheet.set_header(&header).set_footer("&L&A&R&P / &N");
        for (column, width) in (0..).zip(widths) {
            sheet.set_column_width(column, *width)?;
        }
        Ok(sheet)
    }

    /// A table from the first row of a new sheet on; its last row.
    fn table(&mut self, name: w::Word, heads: &[w::Word], rows: &[Vec<Cell<'_>>]) -> Result<u32, XlsxError> {
        let heads: Vec<&str> = heads.iter().map(|word| self.t(*word)).collect();
        let widths: Vec<f64> = heads.iter().enumerate().map(|(n, _)| if n == 0 { 24.0 } else { 15.0 }).collect();
        self.sheet(name, &widths)?;
        let (name, f) = (self.t(name), &self.formats);
        let sheet = self.workbook.worksheet_from_name(name)?;
        for (column, head) in (0..).zip(heads) {
            sheet.write_string_with_format(0, column, head, &f.head)?;
        }
        sheet.set_freeze_panes(1, 0)?;
        sheet.set_repeat_rows(0, 0)?;
        for (row, cells) in (1..).zip(rows) {
            for (column, cell) in (0..).zip(cells) {
                match cell {
                    Cell::Text(text) => sheet.write_string_with_format(row, column, *text, &f.name)?,
                    Cell::Count(count) => sheet.write_number_with_format(row, column, *count as f64, &f.count)?,
                    Cell::Metres(mm) => sheet.write_number_with_format(row, column, *mm as f64 / 1000.0, &f.metres)?,
                    Cell::Day(day) => sheet.write_datetime_with_format(row, column, excel_day(*day)?, &f.day)?,
                };
            }
        }
        Ok(rows.len() as u32)
    }

    /// A chart of columns of a sheet against its first column, beside the table.
    fn chart(
        &mut self,
        on: w::Word,
        kind: ChartType,
        title: w::Word,
        columns: &[(u16, u32)],
        last: u32,
        at: (u32, u16),
    ) -> Result<(), XlsxError> {
        let (on, title) = (self.t(on), self.t(title));
        let mut chart = Chart::new(kind);
        for (column, color) in columns {
            let series = chart.add_series();
            series.set_name((on, 0, *column));
            series.set_categories((on, 1, 0, last, 0)).set_values((on, 1, *column, last, *column));
            let format = &mut rust_xlsxwriter::ChartFormat::new();
            if kind == ChartType::Line {
                format.set_line(rust_xlsxwriter::ChartLine::new().set_color(Color::RGB(*color)).set_width(2.25));
            } else {
                format.set_solid_fill(ChartSolidFill::new().set_color(Color::RGB(*color)));
            }
            series.set_format(format);
        }
        chart.title().set_name(title);
        chart.set_width(720).set_height(360);
        chart.set_alt_text(title);
        if columns.len() == 1 {
            chart.legend().set_hidden();
        } else {
            chart.legend().set_position(rust_xlsxwriter::ChartLegendPosition::Bottom);
        }
        let sheet = self.workbook.worksheet_from_name(on)?;
        sheet.insert_chart(at.0, at.1, &chart)?;
        Ok(())
    }

    fn summary(&mut self, paper: &Paper) -> Result<(), XlsxError> {
        let (language, figures) = (self.language, self.figures);
        let t = |word: w::Word| language.of(word);
        self.sheet(w::SUMMARY, &[46.0, 18.0, 22.0, 18.0, 12.0])?;
        let f = &self.formats;
        let sheet = self.workbook.worksheet_from_name(t(w::SUMMARY))?;
        sheet.write_string_with_format(
            0,
            0,
            format!("{}: {}", figures.project, language.title(figures.period)),
            &f.title,
        )?;
        let mut row = 1;
        if let Some(issued) = paper.issued() {
            let facts = [
                (w::NUMBER, issued.number.to_string()),
                (w::DIGEST, issued.digest.clone()),
                (w::PREVIOUS, issued.previous.clone()),
            ];
            for (name, value) in facts {
                sheet.write_string_with_format(row, 0, t(name), &f.name)?;
                sheet.write_string_with_format(row, 1, value, &f.name)?;
                row += 1;
            }
        } else {
            sheet.write_string_with_format(row, 0, t(w::DRAFT), &f.note)?;
            row += 1;
        }
        for (name, day) in [(w::FROM, figures.from), (w::TO, figures.to)] {
            sheet.write_string_with_format(row, 0, t(name), &f.name)?;
            sheet.write_datetime_with_format(row, 1, excel_day(day)?, &f.day)?;
            row += 1;
        }
        for (name, value) in [(w::WORKING_DAYS, figures.working_days), (w::BASELINE, i64::from(figures.baseline))] {
            sheet.write_string_with_format(row, 0, t(name), &f.name)?;
            sheet.write_number_with_format(row, 1, value as f64, &f.count)?;
            row += 1;
        }
        row += 1;
        for (column, head) in (0..).zip([w::MEASURE, w::IN_PERIOD, w::SO_FAR, w::SCOPE, w::SHARE]) {
            sheet.write_string_with_format(row, column, t(head), &f.head)?;
        }
        row += 1;
        let (done, scanned, accepted, scope) = (figures.done, figures.scanned, figures.accepted, figures.scope);
        let rows: [(w::Word, Growth, Part, bool); 7] = [
            (w::METRES_DONE, done, |t| t.mm, true),
            (w::UNITS_DONE, done, |t| t.units, true),
            (w::SHEETS_DONE, done, |t| t.sheets, true),
            (w::IMAGES_DONE, done, |t| t.images, false),
            (w::UNITS_SCANNED, scanned, |t| t.units, true),
            (w::UNITS_ACCEPTED, accepted, |t| t.units, true),
            (w::IMAGES_ACCEPTED, accepted, |t| t.images, false),
        ];
        for (name, growth, value, has_scope) in rows {
            let is_length = name == w::METRES_DONE;
            let (format, unit) = if is_length { (&f.metres, 1000.0) } else { (&f.count, 1.0) };
            sheet.write_string_with_format(row, 0, t(name), &f.name)?;
            sheet.write_number_with_format(row, 1, value(growth.in_period) as f64 / unit, format)?;
            sheet.write_number_with_format(row, 2, value(growth.so_far) as f64 / unit, format)?;
            if has_scope {
                let whole = value(scope);
                sheet.write_number_with_format(row, 3, whole as f64 / unit, format)?;
                if whole > 0 {
                    sheet.write_number_with_format(row, 4, value(growth.so_far) as f64 / whole as f64, &f.share)?;
                }
            }
            row += 1;
        }
        for (name, in_period, so_far) in [
            (w::NEW_IMAGES, figures.captured, None),
            (w::AGAIN, figures.rescanned, None),
            (w::IMAGES, figures.net, Some(figures.images_so_far)),
            (w::BILLED, figures.billing.billed, Some(figures.billing.billed_so_far)),
        ] {
            sheet.write_string_with_format(row, 0, t(name), &f.name)?;
            sheet.write_number_with_format(row, 1, in_period as f64, &f.count)?;
            if let Some(so_far) = so_far {
                sheet.write_number_with_format(row, 2, so_far as f64, &f.count)?;
            }
            row += 1;
        }
        if figures.first_looks.0 > 0 {
            sheet.write_string_with_format(row, 0, t(w::FIRST_PASS), &f.name)?;
            let share = figures.first_looks.1 as f64 / figures.first_looks.0 as f64;
            sheet.write_number_with_format(row, 1, share, &f.share)?;
            row += 1;
        }
        row += 1;
        if let Some(forecast) = &figures.forecast {
            for (name, day) in [("P50", forecast.p50), ("P85", forecast.p85), ("P95", forecast.p95)] {
                let preliminary =
                    if forecast.is_preliminary { format!(" ({})", t(w::PRELIMINARY)) } else { String::new() };
                sheet.write_string_with_format(row, 0, format!("{} {name}{preliminary}", t(w::FORECAST)), &f.name)?;
                sheet.write_datetime_with_format(row, 1, excel_day(day)?, &f.day)?;
                row += 1;
            }
        }
        if let Some(plan) = &figures.plan {
            sheet.write_string_with_format(row, 0, t(w::PLAN), &f.name)?;
            sheet.write_datetime_with_format(row, 1, excel_day(plan.finish)?, &f.day)?;
            sheet.write_string_with_format(row + 1, 0, t(w::PLANNED), &f.name)?;
            sheet.write_number_with_format(row + 1, 1, plan.mm_planned as f64 / 1000.0, &f.metres)?;
            sheet.write_string_with_format(row + 2, 0, t(w::AHEAD), &f.name)?;
            sheet.write_number_with_format(row + 2, 1, plan.days_ahead, &f.tenth)?;
            if let Some(spi) = plan.spi {
                sheet.write_string_with_format(row + 3, 0, t(w::SPI), &f.name)?;
                sheet.write_number_with_format(row + 3, 1, spi, &f.hundredth)?;
            }
        }
        Ok(())
    }

    fn days(&mut self) -> Result<(), XlsxError> {
        let (yes, no) = (self.t(w::YES), self.t(w::NO));
        let rows: Vec<Vec<Cell<'_>>> = self
            .figures
            .days
            .iter()
            .map(|day| {
                vec![
                    Cell::Day(day.day),
                    Cell::Text(if day.is_working { yes } else { no }),
                    Cell::Count(day.captured),
                    Cell::Count(day.rescanned),
                    Cell::Count(day.net),
                    Cell::Metres(day.mm_done),
                    Cell::Metres(day.mm_done_so_far),
                ]
            })
            .collect();
        let heads = [w::DAY, w::IS_WORKING, w::NEW_IMAGES, w::AGAIN, w::NET_IMAGES, w::METRES, w::METRES_SO_FAR];
        let last = self.table(w::DAYS, &heads, &rows)?;
        self.chart(w::DAYS, ChartType::ColumnStacked, w::CHART_IMAGES, &[(2, INK), (3, WARN)], last, (1, 8))?;
        self.chart(w::DAYS, ChartType::Line, w::CHART_METRES, &[(6, INK)], last, (20, 8))
    }

    fn progress(&mut self) -> Result<(), XlsxError> {
        let scope = self.figures.scope.mm;
        let rows: Vec<Vec<Cell<'_>>> = self
            .figures
            .burn_up
            .iter()
            .map(|(day, mm)| vec![Cell::Day(*day), Cell::Metres(*mm), Cell::Metres(scope)])
            .collect();
        let last = self.table(w::PROGRESS, &[w::WEEK_ENDING, w::METRES_SO_FAR, w::SCOPE], &rows)?;
        if last == 0 {
            return Ok(());
        }
        self.chart(w::PROGRESS, ChartType::Line, w::CHART_METRES, &[(1, INK), (2, SOFT)], last, (1, 4))
    }

    fn stages(&mut self) -> Result<(), XlsxError> {
        let language = self.language;
        let rows: Vec<Vec<Cell<'_>>> = self
            .figures
            .stages
            .iter()
            .map(|row| {
                vec![
                    Cell::Text(language.stage(row.stage)),
                    Cell::Count(row.waiting),
                    Cell::Count(row.working),
                    Cell::Count(row.held),
                    Cell::Metres(row.mm),
                ]
            })
            .collect();
        let last = self.table(w::STAGES, &[w::STAGE, w::WAITING, w::WORKING, w::HELD, w::METRES], &rows)?;
        let columns = [(1, SOFT), (2, INK), (3, WARN)];
        self.chart(w::STAGES, ChartType::BarStacked, w::CHART_STAGES, &columns, last, (1, 6))
    }

    fn stations(&mut self) -> Result<(), XlsxError> {
        let shift = self.t(w::SHIFT);
        let shifts: Vec<String> = self.figures.shifts.iter().map(|row| format!("{shift} {}", row.name)).collect();
        let row = |name: &'_ str, row: &OutputFigures| {
            let mut cells = vec![Cell::Count(row.captured), Cell::Count(row.rescanned)];
            if let Some(stops) = row.stops {
                let minutes = [stops.jam_minutes, stops.down_minutes, stops.maintenance_minutes];
                cells.extend(minutes.map(|minutes| Cell::Count(minutes.into())));
            }
            // The name comes from elsewhere: it is put before the rest by the caller.
            (name.to_owned(), cells)
        };
        let named: Vec<(String, Vec<Cell<'_>>)> = self
            .figures
            .stations
            .iter()
            .map(|station| row(&station.name, station))
            .chain(shifts.iter().zip(&self.figures.shifts).map(|(name, shift)| row(name, shift)))
            .collect();
        let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
        let rows: Vec<Vec<Cell<'_>>> = names
            .iter()
            .zip(named)
            .map(|(name, (_, cells))| std::iter::once(Cell::Text(name)).chain(cells).collect())
            .collect();
        let heads = [w::STATION, w::NEW_IMAGES, w::AGAIN, w::JAM, w::DOWN, w::MAINTENANCE];
        self.table(w::STATIONS, &heads, &rows)?;
        let stations = self.figures.stations.len() as u32;
        if stations == 0 {
            return Ok(());
        }
        self.chart(w::STATIONS, ChartType::ColumnStacked, w::CHART_STATIONS, &[(1, INK), (2, WARN)], stations, (1, 7))
    }

    /// What to say where a sheet would be empty.
    fn say(&mut self, sheet: w::Word, row: u32, words: w::Word) -> Result<(), XlsxError> {
        let (sheet, words) = (self.t(sheet), self.t(words));
        self.workbook.worksheet_from_name(sheet)?.write_string_with_format(row, 0, words, &self.formats.note)?;
        Ok(())
    }

    fn rework(&mut self) -> Result<(), XlsxError> {
        let rows: Vec<Vec<Cell<'_>>> = self
            .figures
            .rework
            .iter()
            .map(|row| {
                vec![
                    Cell::Text(self.language.reason(&row.reason)),
                    Cell::Count(row.count),
                    Cell::Count(row.open),
                    Cell::Count(row.lost_days),
                ]
            })
            .collect();
        let last = self.table(w::REWORK, &[w::REASON, w::REJECTIONS, w::OPEN, w::LOST_DAYS], &rows)?;
        if last == 0 {
            return self.say(w::REWORK, 1, w::NO_REWORK);
        }
        self.chart(w::REWORK, ChartType::Column, w::CHART_REWORK, &[(3, WARN)], last, (1, 5))
    }

    fn billing(&mut self) -> Result<(), XlsxError> {
        let (period, so_far) = (self.t(w::IN_PERIOD), self.t(w::SO_FAR));
        let billing = &self.figures.billing;
        let row = |name, billed, accepted| {
            vec![Cell::Text(name), Cell::Count(billed), Cell::Count(accepted), Cell::Count(billed - accepted)]
        };
        let rows = [
            row(period, billing.billed, billing.accepted),
            row(so_far, billing.billed_so_far, billing.accepted_so_far),
        ];
        let last = self.table(w::BILLING, &[w::PERIOD, w::BILLED, w::IMAGES_ACCEPTED, w::DIFFERENCE], &rows)?;
        self.chart(w::BILLING, ChartType::Column, w::CHART_BILLING, &[(1, SOFT), (2, INK)], last, (1, 5))?;
        let first = last + 2;
        if self.figures.billing.invoices.is_empty() {
            return self.say(w::BILLING, first, w::NO_INVOICES);
        }
        let (name, heads) = (self.t(w::BILLING), [w::INVOICE, w::DAY, w::BILLED].map(|word| self.t(word)));
        let f = &self.formats;
        let sheet = self.workbook.worksheet_from_name(name)?;
        for (column, head) in (0..).zip(heads) {
            sheet.write_string_with_format(first, column, head, &f.head)?;
        }
        for (row, invoice) in (first + 1..).zip(&self.figures.billing.invoices) {
            sheet.write_string_with_format(row, 0, &invoice.invoice, &f.name)?;
            sheet.write_datetime_with_format(row, 1, excel_day(invoice.day)?, &f.day)?;
            sheet.write_number_with_format(row, 2, invoice.images as f64, &f.count)?;
        }
        Ok(())
    }

    fn corrections(&mut self) -> Result<(), XlsxError> {
        let rows: Vec<Vec<Cell<'_>>> = self
            .figures
            .corrections
            .iter()
            .map(|row| {
                vec![
                    Cell::Day(row.booked),
                    Cell::Day(row.own),
                    Cell::Text(&row.kind),
                    Cell::Count(row.events as i64),
                    Cell::Count(row.captured),
                    Cell::Count(row.rescanned),
                    Cell::Count(row.net),
                ]
            })
            .collect();
        let heads = [w::BOOKED, w::HAPPENED, w::KIND, w::EVENTS, w::NEW_IMAGES, w::AGAIN, w::NET_IMAGES];
        let last = self.table(w::CORRECTIONS, &heads, &rows)?;
        let words = if last == 0 { w::NO_CORRECTIONS } else { w::WHAT_LATE };
        self.say(w::CORRECTIONS, last + 1 + u32::from(last > 0), words)
    }
}
