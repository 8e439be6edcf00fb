//! Reading with every length checked, writing with every length filled in.

use super::error::{EmitError, ParseError, Place, Problem};

/// Octets still to be read, and where in the message they are, for errors.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    place: Place,
}

impl<'a> Reader<'a> {
    pub(super) fn new(octets: &'a [u8], place: Place) -> Reader<'a> {
        Reader { rest: octets, place }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next octets.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ParseError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.error(Problem::Short { needed: count, found: self.rest.len() }));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// A field of fixed size.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            return Err(self.error(Problem::Short { needed: N, found: self.rest.len() }));
        };
        self.rest = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ParseError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The body of a structure whose length field counts `header` octets, already read, as well.
    pub(super) fn body(&mut self, declared: u16, header: usize) -> Result<&'a [u8], ParseError> {
        let there = header + self.rest.len();
        match usize::from(declared).checked_sub(header).and_then(|body| self.rest.split_at_checked(body)) {
            Some((body, rest)) => {
                self.rest = rest;
                Ok(body)
            }
            None => Err(self.error(Problem::Length { declared: declared.into(), least: header, there })),
        }
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// An error at this place.
    pub(super) fn error(&self, problem: Problem) -> ParseError {
        ParseError { place: self.place, problem }
    }

    /// That nothing is left.
    pub(super) fn finish(&self) -> Result<(), ParseError> {
        match self.rest.len() {
            0 => Ok(()),
            octets => Err(self.error(Problem::Trailing { octets })),
        }
    }
}

/// A message in the making.
#[derive(Debug, Default)]
pub(super) struct Writer {
    octets: Vec<u8>,
}

/// The place of a length field to be filled in.
#[must_use]
pub(super) struct Length {
    /// Where the structure begins that the length counts.
    start: usize,
    /// Where the 16-bit field is.
    field: usize,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.octets.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// Leaves room for the length of a structure that began `before` octets ago.
    pub(super) fn length(&mut self, before: usize) -> Length {
        let field = self.octets.len();
        self.u16(0);
        Length { start: field.saturating_sub(before), field }
    }

    /// Leaves room for the length of what comes after it.
    pub(super) fn length_of_rest(&mut self) -> Length {
        let field = self.octets.len();
        self.u16(0);
        Length { start: field + 2, field }
    }

    /// Fills in a length: the structure ends here.
    pub(super) fn end(&mut self, length: Length, what: &'static str) -> Result<(), EmitError> {
        let octets = self.octets.len() - length.start;
        let counted = u16::try_from(octets).map_err(|_| EmitError { what, count: octets, limit: u16::MAX.into() })?;
        if let Some(field) = self.octets.get_mut(length.field..).and_then(|rest| rest.first_chunk_mut()) {
            *field = counted.to_be_bytes();
        }
        Ok(())
    }

    pub(super) fn into_vec(self) -> Vec<u8> {
        self.octets
    }
}

/// A count as the one-octet field that it is sent in.
pub(super) fn octet(count: usize, what: &'static str) -> Result<u8, EmitError> {
    u8::try_from(count).map_err(|_| EmitError { what, count, limit: u8::MAX.into() })
}
