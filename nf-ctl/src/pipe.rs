//! Output filters as on IOS: `| include PATTERN`, `| exclude PATTERN`, `| count PATTERN`. They see every line, headers
//! included; patterns are regular expressions and tell upper from lower case.

use regex::Regex;

use crate::Error;
use crate::show::abbreviates;

/// A filter behind a command.
#[derive(Debug)]
pub(crate) enum Pipe {
    Include(Regex),
    Exclude(Regex),
    Count(Regex),
}

/// Splits a command's words from the filter behind them: `|` as a word of its own, or at the front of one.
pub(crate) fn split(words: &[String]) -> Result<(Vec<String>, Option<Pipe>), Error> {
    let Some(at) = words.iter().position(|word| word.starts_with('|')) else {
        return Ok((words.to_vec(), None));
    };
    let (command, pipe) = words.split_at(at);
    let text = pipe.join(" ");
    let text = text.trim_start_matches('|').trim_start();
    let (verb, pattern) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return Err(Error::Usage("behind `|` goes include, exclude or count, and a pattern".to_owned()));
    }
    let regex = Regex::new(pattern).map_err(|error| Error::Usage(format!("`{pattern}` isn't a pattern: {error}")))?;
    let pipe = if abbreviates(verb, "include") {
        Pipe::Include(regex)
    } else if abbreviates(verb, "exclude") {
        Pipe::Exclude(regex)
    } else if abbreviates(verb, "count") {
        Pipe::Count(regex)
    } else {
        return Err(Error::Usage(format!("there is no filter `{verb}`; use include, exclude or count")));
    };
    Ok((command.to_vec(), Some(pipe)))
}

impl Pipe {
    /// The text behind the filter.
    pub(crate) fn apply(&self, text: &str) -> String {
        let keep = |test: &dyn Fn(&str) -> bool| {
            text.lines().filter(|line| test(line)).fold(String::new(), |kept, line| kept + line + "\n")
        };
        match self {
            Pipe::Include(pattern) => keep(&|line| pattern.is_match(line)),
            Pipe::Exclude(pattern) => keep(&|line| !pattern.is_match(line)),
            Pipe::Count(pattern) => {
                let count = text.lines().filter(|line| pattern.is_match(line)).count();
                format!("Number of lines which match regexp = {count}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn both_forms_are_understood() {
        for form in [
            &["drop", "|", "include", "SPI"][..],
            &["drop", "| include SPI"],
            &["drop", "|inc SPI"],
            &["drop", "|", "i SPI"],
        ] {
            let (command, pipe) = split(&words(form)).unwrap();
            assert_eq!(command, ["drop"]);
            assert_eq!(pipe.unwrap().apply("a SPI\nb\nspi\n"), "a SPI\n", "{form:?}");
        }
    }

    #[test]
    fn the_other_filters() {
        let apply = |text: &str| split(&words(&[text])).unwrap().1.unwrap().apply("one\ntwo\nthree\n");
        assert_eq!(apply("| exclude ^t"), "one\n");
        assert_eq!(apply("| count t"), "Number of lines which match regexp = 2\n");
        assert_eq!(apply("| include o|three"), "one\ntwo\nthree\n");
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |text: &str| split(&words(&[text])).unwrap_err().to_string();
        assert_eq!(error("|"), "behind `|` goes include, exclude or count, and a pattern");
        assert_eq!(error("| begin x"), "there is no filter `begin`; use include, exclude or count");
        assert!(error("| include (").starts_with("`(` isn't a pattern"));
    }
}
