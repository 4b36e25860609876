//! Tables that fit the screen: columns that may shrink do, widest first, down to a least width.

use super::text::{cut, visible, width};

/// What separates two columns.
const GAP: &str = "  ";

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
        let widths = self.widths(screen);
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let mut text = line(&titles, &widths, |_, cell| cell.to_owned());
        for row in &self.rows {
            text.push_str(&line(row, &widths, &paint));
        }
        text
    }

    fn widths(&self, screen: usize) -> Vec<usize> {
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
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > screen {
            let shrinkable = widths.iter_mut().zip(&self.columns).filter(|(wide, column)| {
                column.least.is_some_and(|least| **wide > least.max(width(column.title)))
            });
            match shrinkable.max_by_key(|(wide, _)| **wide) {
                Some((widest, _)) => *widest -= 1,
                None => break,
            }
        }
        widths
    }
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
        assert!(table("r").render(1, |_, cell| cell.to_owned()).contains("prod/db "));
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
