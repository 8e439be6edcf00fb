//! Output filters as on IOS: `| include PATTERN`, `| exclude PATTERN`, `| count PATTERN`. They see every line, headers
//! included; patterns are regular expressions and tell upper from lower case.

use std::ffi::OsString;

use regex::bytes::{Regex, RegexBuilder};

use crate::Error;
use crate::show::abbreviates;

/// A filter behind a command.
#[derive(Debug)]
pub(crate) enum Pipe {
    Include(Regex),
    Exclude(Regex),
    Count(Regex),
}

/// Splits the filter off a command line: from a word `|` on to the end, or one word that begins with `|` and has more in
/// it, as it comes of quotes.
pub(crate) fn split(mut args: Vec<OsString>) -> Result<(Vec<OsString>, Option<Pipe>), Error> {
    // What isn't UTF-8 is no filter; whoever it is meant for refuses it.
    let Some(at) = args.iter().position(|arg| arg.to_str().is_some_and(|arg| arg.starts_with('|'))) else {
        return Ok((args, None));
    };
    let quoted = args.get(at).is_some_and(|arg| arg.len() > 1 && arg.to_str().is_some_and(|arg| arg.contains(' ')));
    let rest = args.split_off(at);
    let (pipe, behind) = rest.split_at(if quoted { 1 } else { rest.len() });
    args.extend_from_slice(behind);
    let text = pipe.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Ok((args, Some(Pipe::parse(&text)?)))
}

impl Pipe {
    /// The filter that a text such as `| include SPI` stands for.
    fn parse(text: &str) -> Result<Pipe, Error> {
        let text = text.trim_start_matches('|').trim_start();
        let (verb, pattern) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Err(Error::Usage("behind `|` goes include, exclude or count, and a pattern".to_owned()));
        }
        // In ASCII, which all output is: so classes such as \d need no Unicode tables.
        let regex = RegexBuilder::new(pattern)
            .unicode(false)
            .build()
            .map_err(|error| Error::Usage(format!("`{pattern}` isn't a pattern: {error}")))?;
        if abbreviates(verb, "include") {
            Ok(Pipe::Include(regex))
        } else if abbreviates(verb, "exclude") {
            Ok(Pipe::Exclude(regex))
        } else if abbreviates(verb, "count") {
            Ok(Pipe::Count(regex))
        } else {
            Err(Error::Usage(format!("there is no filter `{verb}`; use include, exclude or count")))
        }
    }
}

impl Pipe {
    /// The text behind the filter.
    pub(crate) fn apply(&self, text: &str) -> String {
        let keep = |test: &dyn Fn(&str) -> bool| {
            text.lines().filter(|line| test(line)).fold(String::new(), |kept, line| kept + line + "\n")
        };
        match self {
            Pipe::Include(pattern) => keep(&|line| pattern.is_match(line.as_bytes())),
            Pipe::Exclude(pattern) => keep(&|line| !pattern.is_match(line.as_bytes())),
            Pipe::Count(pattern) => {
                let count = text.lines().filter(|line| pattern.is_match(line.as_bytes())).count();
                format!("Number of lines which match regexp = {count}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(words: &[&str]) -> Result<(Vec<OsString>, Option<Pipe>), Error> {
        super::split(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn both_forms_are_understood() {
        for form in [
            &["drop", "|", "include", "SPI"][..],
            &["drop", "| include SPI"],
            &["drop", "|inc SPI"],
            &["drop", "|inc", "SPI"],
            &["drop", "|", "i SPI"],
            &["drop", "|", "INCLUDE", "SPI"],
        ] {
            let (command, pipe) = split(form).unwrap();
            assert_eq!(command, ["drop"]);
            assert_eq!(pipe.unwrap().apply("a SPI\nb\nspi\n"), "a SPI\n", "{form:?}");
        }
    }

    #[test]
    fn a_quoted_filter_is_one_word_and_an_unquoted_one_goes_to_the_end() {
        let (command, pipe) = split(&["drop", "| include a b", "--json"]).unwrap();
        assert_eq!(command, ["drop", "--json"]);
        assert_eq!(pipe.unwrap().apply("a b\na\n"), "a b\n");
        let (command, pipe) = split(&["drop", "|", "include", "-a", "--json"]).unwrap();
        assert_eq!(command, ["drop"]);
        assert_eq!(pipe.unwrap().apply("-a\n-a --json\n"), "-a --json\n");
        let (command, pipe) = split(&["drop", "a|b"]).unwrap();
        assert!(command == ["drop", "a|b"] && pipe.is_none());
    }

    #[test]
    fn the_other_filters() {
        let apply = |text: &str| split(&[text]).unwrap().1.unwrap().apply("one\ntwo 2\nthree\n");
        assert_eq!(apply("| exclude ^t"), "one\n");
        assert_eq!(apply("| count t"), "Number of lines which match regexp = 2\n");
        assert_eq!(apply("| include o|three"), "one\ntwo 2\nthree\n");
        assert_eq!(apply(r"| include \d$"), "two 2\n");
        assert_eq!(apply("| include ONE"), "");
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |text: &str| split(&[text]).unwrap_err().to_string();
        assert_eq!(error("|"), "behind `|` goes include, exclude or count, and a pattern");
        assert_eq!(error("| include"), "behind `|` goes include, exclude or count, and a pattern");
        assert_eq!(error("| begin x"), "there is no filter `begin`; use include, exclude or count");
        assert!(error("| include (").starts_with("`(` isn't a pattern"));
    }
}
