//! Writes rows in columns, as `kubectl get` does. Pure.

/// The gap between two columns.
const GAP: usize = 3;

/// Writes a head and rows, each column as wide as its widest cell. Spaces at the end of a line are
/// left out.
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }

    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut written = String::new();
        for (cell, width) in cells.zip(&widths) {
            written.push_str(cell);
            let rest = width.saturating_sub(cell.chars().count()) + GAP;
            written.extend(std::iter::repeat_n(' ', rest));
        }
        text.push_str(written.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Writes a number of seconds as `kubectl` writes ages: `42s`, `3m12s`, `5h`, `2d`.
pub(super) fn age(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates, and ages are not negative"
    )]
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..120 => format!("{whole}s"),
        120..600 if !whole.is_multiple_of(60) => format!("{}m{}s", whole / 60, whole % 60),
        120..10_800 => format!("{}m", whole / 60),
        10_800..172_800 => format!("{}h", whole / 3600),
        _ => format!("{}d", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, columns};

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(columns(&["NAME", "N"], &rows), "NAME     N\na        1\nlonger\n");
    }

    #[test]
    fn ages_are_short() {
        let ages = [0.4, 42.0, 192.0, 240.0, 700.0, 20_000.0, 200_000.0].map(age);
        assert_eq!(ages, ["0s", "42s", "3m12s", "4m", "11m", "5h", "2d"]);
    }
}
