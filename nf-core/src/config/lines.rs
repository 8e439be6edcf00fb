//! Where in nf.toml a field stands.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where in the file a value is: the field of a table, or of the n-th table (from 0) of an array of tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) table: &'a str,
    pub(super) number: Option<usize>,
    pub(super) field: &'a str,
}

/// The line, counted from 1, in which an octet stands.
pub(super) fn line_at(text: &str, octet: usize) -> usize {
    text.bytes().take(octet).filter(|c| *c == b'\n').count() + 1
}

/// The octets of a field with its value; of its table where the field isn't there.
pub(super) fn span_of(text: &str, place: Place<'_>) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let (_, table) = find(document.get_ref(), place.table)?;
    let table = match place.number {
        Some(number) => table.get_ref().as_array()?.get(number)?,
        None => table,
    };
    let mut span = table.span();
    let mut value = table;
    for part in place.field.split('.') {
        match value.get_ref().as_table().and_then(|table| find(table, part)) {
            Some((key, inner)) => {
                span = key.span().start..inner.span().end;
                value = inner;
            }
            None => break,
        }
    }
    Some(span)
}

type Entry<'t, 'd> = (&'t Spanned<std::borrow::Cow<'d, str>>, &'t Spanned<DeValue<'d>>);

fn find<'t, 'd>(table: &'t DeTable<'d>, name: &str) -> Option<Entry<'t, 'd>> {
    table.iter().find(|(key, _)| key.get_ref() == name)
}
