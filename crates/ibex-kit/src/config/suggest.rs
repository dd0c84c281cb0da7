//! "Did you mean": the nearest known name by edit distance.
//!
//! Owns nothing but the measure. Used for unknown keys and variables; flags have clap's own.

/// The known name nearest to `wrong`, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(far, _)| *far <= limit)
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, j) + usize::from(x != y))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("", "", 0),
            ("a", "", 1),
            ("listen", "lsiten", 1),
            ("grace", "grase", 1),
            ("abc", "xyz", 3),
            ("level", "levels", 1),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
    }

    #[test]
    fn only_near_names_are_offered() {
        let known = ["listen", "node_name", "admin"];
        assert_eq!(nearest("lsten", known), Some("listen"));
        assert_eq!(nearest("nodename", known), Some("node_name"));
        assert_eq!(nearest("colour", known), None);
    }
}
