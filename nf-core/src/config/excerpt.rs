//! The line of nf.toml that an error is about, with a caret under the place; whatever may be a key is masked.

use std::fmt;
use std::ops::Range;

use super::lines::line_at;

/// Words of so many characters may be keys; so may shorter ones that read as hex.
const LONGEST_WORD: usize = 24;
const SHORTEST_KEY: usize = 8;

/// A line and a place in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Excerpt {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1, in characters.
    pub column: usize,
    /// How many characters it is about: at least one.
    pub width: usize,
    /// The line's text, masked.
    pub text: String,
}

impl Excerpt {
    /// The line in which a range of octets begins.
    pub(super) fn of(text: &str, span: Range<usize>) -> Excerpt {
        let before = text.get(..span.start).unwrap_or(text);
        let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
        let characters = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
        let end = span.end.min(begin + line.len());
        Excerpt {
            line: line_at(text, span.start),
            column: characters(before.get(begin..)) + 1,
            width: characters(text.get(span.start..end)).max(1),
            text: masked(line),
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the caret stands where the line's character does.
        let before = self.text.chars().take(self.column.saturating_sub(1));
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", self.text)?;
        write!(f, "{margin} | {indent}{}", "^".repeat(self.width))
    }
}

/// The line with a star for each character of what may be a key.
fn masked(line: &str) -> String {
    let stars = |text: &str| "*".repeat(text.chars().count());
    // All of a secret's value, however it is mistaken.
    if let Some((name, value)) = line.split_once('=') {
        let names_a_secret = ["key", "secret", "psk", "password"].iter().any(|word| name.contains(word));
        if names_a_secret && !name.trim_end().trim_end_matches(['"', '\'']).ends_with("_file") {
            return format!("{name}={}", stars(value));
        }
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| is_of_a_word(c) != is_of_a_word(first)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(length);
        let is_hex = word.len() >= SHORTEST_KEY && word.bytes().all(|c| c.is_ascii_hexdigit());
        out +=
            &if is_of_a_word(first) && (is_hex || word.len() >= LONGEST_WORD) { stars(word) } else { word.to_owned() };
        rest = behind;
    }
    out
}

/// Whether a character may be one of a key in hex or base64.
fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '+' | '/' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place() {
        let text = "[eal]\n\tcores = []\n";
        let at = text.find("cores").unwrap();
        assert_eq!(Excerpt::of(text, at..at + 5).to_string(), "  |\n2 | \tcores = []\n  | \t^^^^^");
        // A place at the very end, or one that is no place at all.
        assert_eq!(Excerpt::of("a = ", 4..4).to_string(), "  |\n1 | a = \n  |     ^");
        assert_eq!(Excerpt::of("ä = ö", 1..90).column, 6);
    }

    #[test]
    fn whatever_may_be_a_key_is_masked() {
        for line in [
            "key = \"a1b2c3d4a1b2c3d4\"",
            "'auth_key'=a1",
            "a1b2c3d4a1b2\"",
            "sa = { spi = 256, key = \"a1b2c3d4\" }",
            "kex = \"a1b2c3d4\"",
            "kex = \"gg/a1b2c3d4a1b2c3d4a1b2c3d4\"",
        ] {
            let shown = masked(line);
            assert!(!shown.contains("a1"), "{shown}");
            assert_eq!(shown.chars().count(), line.chars().count());
        }
        for line in
            ["spi = 0xB761863E", "key_file = \"/etc/nf-core/branch.key\"", "socket = \"/run/nf-core/nf-core.sock\""]
        {
            assert_eq!(masked(line), line);
        }
    }
}
