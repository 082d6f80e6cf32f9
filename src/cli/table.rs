//! Aligned columns of text.
//!
//! Cells are escaped when they are put in, so that no name can break a line or a column.

use crate::cli::escape::escape;

/// On which side a column's cells are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers and sizes.
    Right,
}

/// A table with a heading.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row<C: AsRef<[u8]>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| escape(cell.as_ref())).collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The heading and the rows; no line ends in blanks.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        std::iter::once(heading)
            .chain(self.rows.iter().cloned())
            .map(move |cells| self.line(&cells, &widths))
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            let gap = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell.as_str(), &gap, "  "]),
                Align::Right => line.extend([gap.as_str(), cell, "  "]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_escaped() {
        let mut table =
            Table::new(&[("ID", Align::Left), ("SIZE", Align::Right), ("PATH", Align::Left)]);
        table.row(["9ac1", "41.2 GiB", "/ä"]);
        table.row([b"4d".as_slice(), b"7 B", b"a\nb"]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines, ["ID        SIZE  PATH", "9ac1  41.2 GiB  /ä", "4d         7 B  a\\nb"]);
    }
}
