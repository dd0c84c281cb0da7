//! The paragraphs that demonstration entries are made of: public-domain prose, compiled into the binary.

/// The file itself; its head says how it is laid out and why every text in it is free.
const TEXT: &str = include_str!("corpus.txt");

/// Where a paragraph comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Title of the book.
    pub title: &'static str,
    /// Its author.
    pub author: &'static str,
    /// Year of publication.
    pub year: &'static str,
}

/// One paragraph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paragraph {
    /// The words.
    pub text: &'static str,
    /// Their source.
    pub source: Source,
}

/// All paragraphs, in the file's order.
#[must_use]
pub fn paragraphs() -> Vec<Paragraph> {
    let mut source = None;
    let mut found = Vec::new();
    for block in TEXT.split("\n\n").map(str::trim) {
        if let Some(head) = block.strip_prefix("= ") {
            let mut parts = head.split(" / ");
            source = match (parts.next(), parts.next(), parts.next()) {
                (Some(title), Some(author), Some(year)) => Some(Source {
                    title,
                    author,
                    year,
                }),
                _ => None,
            };
        } else if let Some(source) = source
            && !block.is_empty()
        {
            found.push(Paragraph {
                text: block,
                source,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_paragraph_has_a_source_and_fits_an_entry() {
        let all = paragraphs();
        assert!(all.len() > 50, "{}", all.len());
        for paragraph in all {
            assert!(paragraph.source.year.parse::<u16>().unwrap() < 1900);
            assert!(!paragraph.text.contains('\n') && paragraph.text.len() < 1000);
        }
    }
}
