//! Tables that fit the screen: columns that may shrink do, widest first, down to a least width. If
//! that is not enough, each row takes two lines, the first with what is widest and never cut.

use std::ops::Range;

use super::text::{cut, visible, width};

/// What separates two columns.
const GAP: &str = "  ";

/// Before the second line of a row.
const INDENT: &str = "  ";

/// A column that may be cut is no wider than this, unless it is the last: one long name would push
/// everybody's row apart.
const WIDE_MAX: usize = 48;

/// One column of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Cut down to this many columns when the table is too wide; `None`: never cut, because a
    /// person copies it into a command.
    pub(crate) least: Option<usize>,
}

/// Rows of text under titles.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell per column, made safe to show here.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| visible(cell)).collect());
    }

    /// The table as lines of at most `columns` columns where its parts allow that. `paint` may
    /// colour a cell, given its column and text, after it was padded.
    pub(crate) fn render(&self, screen: usize, paint: impl Fn(usize, &str) -> String) -> String {
        let widths = self.widths();
        let whole = 0..widths.len();
        let parts = match self.fitted(&widths, &whole, screen) {
            Ok(fitted) => vec![(whole, fitted)],
            Err(fitted) => {
                let fixed = whole.clone().filter(|&nth| self.columns[nth].least.is_none());
                let widest = fixed.rev().max_by_key(|&nth| widths[nth]).unwrap_or(whole.end);
                if widest + 1 >= whole.end {
                    vec![(whole, fitted)]
                } else {
                    let (first, second) = (0..widest + 1, widest + 1..whole.end);
                    let room = screen.saturating_sub(INDENT.len());
                    let fit = |part: &Range<usize>, room| match self.fitted(&widths, part, room) {
                        Ok(fitted) | Err(fitted) => fitted,
                    };
                    let fitted = (fit(&first, screen), fit(&second, room));
                    vec![(first, fitted.0), (second, fitted.1)]
                }
            }
        };
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let mut text = row(&titles, &parts, |_, cell| cell.to_owned());
        for cells in &self.rows {
            text.push_str(&row(cells, &parts, &paint));
        }
        text
    }

    /// As wide as each would like to be.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| width(c.title)).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        let last = self.columns.len().saturating_sub(1);
        for (wide, column) in widths.iter_mut().zip(&self.columns).take(last) {
            if column.least.is_some() {
                *wide = (*wide).min(WIDE_MAX);
            }
        }
        widths
    }

    /// How wide these columns are in so much room; an error if they still do not fit.
    fn fitted(
        &self,
        widths: &[usize],
        part: &Range<usize>,
        room: usize,
    ) -> Result<Vec<usize>, Vec<usize>> {
        let columns = &self.columns[part.clone()];
        let mut widths = widths[part.clone()].to_vec();
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let shrinkable = widths.iter_mut().zip(columns).filter(|(wide, column)| {
                column.least.is_some_and(|least| **wide > least.max(width(column.title)))
            });
            match shrinkable.max_by_key(|(wide, _)| **wide) {
                Some((widest, _)) => *widest -= 1,
                None => return Err(widths),
            }
        }
        Ok(widths)
    }
}

/// A line for each part of the columns.
fn row(
    cells: &[String],
    parts: &[(Range<usize>, Vec<usize>)],
    paint: impl Fn(usize, &str) -> String,
) -> String {
    let mut text = String::new();
    for (part, widths) in parts {
        let start = part.start;
        if start > 0 {
            text.push_str(INDENT);
        }
        text.push_str(&line(&cells[part.clone()], widths, |nth, cell| paint(start + nth, cell)));
    }
    text
}

fn line(cells: &[String], widths: &[usize], paint: impl Fn(usize, &str) -> String) -> String {
    let mut text = String::new();
    let last = cells.len().saturating_sub(1);
    for (nth, (cell, wide)) in cells.iter().zip(widths).enumerate() {
        let cell = cut(cell, *wide);
        let padding = if nth == last { 0 } else { wide.saturating_sub(width(&cell)) };
        text.push_str(&paint(nth, &cell));
        text.push_str(&" ".repeat(padding));
        if nth != last {
            text.push_str(GAP);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(reason: &str) -> Table {
        let columns = [
            Column { title: "RESOURCE", least: None },
            Column { title: "HOLDER", least: Some(10) },
            Column { title: "REASON", least: Some(8) },
        ];
        let mut table = Table::new(&columns);
        table.row(vec!["prod/db".into(), "maria@bastion2".into(), reason.into()]);
        table.row(vec!["x".into(), "y".into(), String::new()]);
        table
    }

    #[test]
    fn a_table_fits_by_cutting_what_may_be_cut() {
        let wide = table("short").render(80, |_, cell| cell.to_owned());
        let whole =
            "RESOURCE  HOLDER          REASON\nprod/db   maria@bastion2  short\nx         y\n";
        assert_eq!(wide, whole);
        let narrow = table(&"long ".repeat(40)).render(40, |_, cell| cell.to_owned());
        assert!(narrow.lines().all(|line| width(line) <= 40), "{narrow}");
        assert!(narrow.contains("prod/db ") && narrow.contains('…'), "{narrow}");
        // Nothing is left to cut: the resource stays whole, whatever the screen.
        assert!(table("r").render(1, |_, cell| cell.to_owned()).contains("prod/db\n"));
    }

    #[test]
    fn a_row_that_does_not_fit_takes_two_lines() {
        let mut table = table("short");
        let long = "prod/".repeat(8);
        table.row(vec![long.clone(), "maria@bastion2".into(), "why".into()]);
        let text = table.render(50, |_, cell| cell.to_owned());
        let expected = format!(
            "RESOURCE\n  HOLDER          REASON\n\
             prod/db\n  maria@bastion2  short\nx\n  y\n{long}\n  maria@bastion2  why\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn one_long_name_does_not_widen_the_table_for_all() {
        let mut table = table("short");
        table.row(vec!["y".into(), "n".repeat(128), "why".into()]);
        let text = table.render(usize::MAX, |_, cell| cell.to_owned());
        assert!(text.lines().all(|line| width(line) < 80), "{text}");
        // The last one pushes nothing.
        table.row(vec!["z".into(), "z".into(), "r".repeat(128)]);
        let text = table.render(usize::MAX, |_, cell| cell.to_owned());
        assert!(text.contains(&"r".repeat(128)), "{text}");
    }

    #[test]
    fn a_reason_cannot_break_out_of_its_cell() {
        let text = table("a\nb\u{1b}[2J").render(80, |_, cell| cell.to_owned());
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("a\\u{a}b\\u{1b}[2J"));
    }
}
