//! SK and SKF payloads: where everything lies in an encrypted message (RFC 7296 3.14, RFC 5282 3 and 5.1, RFC 7383 2.5).
//!
//! Encryption itself is not done here. A received message is taken apart by [`Sk::parts`]; one to be sent is laid out by
//! [`SkFrame::new`] with room for what the cipher adds, and encrypted in place.

use std::fmt;

use super::chain::{Chain, Link};
use super::error::{EmitError, ParseError, Place, Problem};
use super::header::{HEADER_LEN, Header};
use super::octets::{Reader, Writer};
use super::registry::PayloadType;

/// Octets of the generic header of a payload.
const GENERIC_HEADER_LEN: usize = 4;
/// Octets of the fields that SKF has before the IV.
const FRAGMENT_FIELDS_LEN: usize = 4;

/// Which fragment of how many (RFC 7383 2.5): `1 <= number <= total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentId {
    number: u16,
    total: u16,
}

impl FragmentId {
    /// A fragment's place; none if there can't be such a fragment.
    pub fn new(number: u16, total: u16) -> Option<FragmentId> {
        (1..=total).contains(&number).then_some(FragmentId { number, total })
    }

    /// Which, from 1.
    pub fn number(self) -> u16 {
        self.number
    }

    /// Of how many.
    pub fn total(self) -> u16 {
        self.total
    }
}

impl fmt::Display for FragmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.total)
    }
}

/// What a cipher adds to a plaintext.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SkLayout {
    /// Octets of the IV.
    pub iv: usize,
    /// The ciphertext is a multiple of so many octets: 16 for AES-CBC, 1 for AEADs.
    pub block: usize,
    /// Octets of the ICV.
    pub icv: usize,
}

/// The encrypted part of a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sk<'a> {
    message: &'a [u8],
    /// Where the IV begins.
    iv: usize,
    /// The type of the first payload inside; in a fragment that isn't the first [`PayloadType::NONE`].
    pub first: PayloadType,
    /// Which fragment it is, in an SKF payload.
    pub fragment: Option<FragmentId>,
}

/// An encrypted message taken apart. All parts are the message's own octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SkParts<'a> {
    /// What an AEAD authenticates besides the ciphertext: from the IKE header up to the IV.
    pub aad: &'a [u8],
    /// The IV.
    pub iv: &'a [u8],
    /// The encrypted payloads with their padding and its length.
    pub ciphertext: &'a [u8],
    /// The ICV.
    pub icv: &'a [u8],
    /// What a separate integrity algorithm authenticates: all before the ICV.
    pub authenticated: &'a [u8],
}

impl<'a> Sk<'a> {
    /// The SK or SKF payload at the end of a message.
    pub(super) fn parse(message: &'a [u8], link: &Link<'a>) -> Result<Sk<'a>, ParseError> {
        let mut reader = Reader::new(link.body, Place::Payload(link.kind));
        let fragment = match link.kind {
            PayloadType::SKF => {
                let (number, total) = (reader.u16()?, reader.u16()?);
                Some(FragmentId::new(number, total).ok_or_else(|| {
                    let expected = "1 up to Total Fragments";
                    reader.error(Problem::Value { field: "Fragment Number", value: number.into(), expected })
                })?)
            }
            _ => None,
        };
        // A chain ends with SK, and SK with the message.
        let iv = message.len().saturating_sub(reader.len());
        Ok(Sk { message, iv, first: link.next, fragment })
    }

    /// Takes the message apart. The layout's block is not looked at: that a ciphertext has whole blocks is the cipher's to check.
    pub fn parts(&self, layout: SkLayout) -> Result<SkParts<'a>, ParseError> {
        let kind = if self.fragment.is_some() { PayloadType::SKF } else { PayloadType::SK };
        let (aad, rest) = self.message.split_at_checked(self.iv).unwrap_or((self.message, &[]));
        let mut reader = Reader::new(rest, Place::Payload(kind));
        let iv = reader.take(layout.iv)?;
        // The least that can be encrypted is the length of the padding.
        let Some(ciphertext_len) = reader.len().checked_sub(layout.icv).filter(|octets| *octets > 0) else {
            return Err(reader.error(Problem::Short { needed: layout.icv.saturating_add(1), found: reader.len() }));
        };
        let ciphertext = reader.take(ciphertext_len)?;
        let icv = reader.take(layout.icv)?;
        let authenticated = self.message.get(..self.message.len() - icv.len()).unwrap_or_default();
        Ok(SkParts { aad, iv, ciphertext, icv, authenticated })
    }
}

/// Takes the padding off a decrypted SK or SKF payload: the last octet tells its length.
pub fn strip_padding(plaintext: &[u8]) -> Result<&[u8], ParseError> {
    let reader = Reader::new(plaintext, Place::Payload(PayloadType::SK));
    let Some((padding, rest)) = plaintext.split_last() else {
        return Err(reader.error(Problem::Short { needed: 1, found: 0 }));
    };
    match rest.len().checked_sub((*padding).into()).and_then(|end| rest.get(..end)) {
        Some(payloads) => Ok(payloads),
        None => Err(reader.error(Problem::Value {
            field: "Pad Length",
            value: (*padding).into(),
            expected: "at most the number of octets before it",
        })),
    }
}

/// A message to be encrypted in place: laid out with all lengths and the padding, IV and ICV still zero.
#[derive(Clone, PartialEq, Eq)]
pub struct SkFrame {
    message: Vec<u8>,
    /// Where the IV begins.
    iv: usize,
    layout: SkLayout,
}

impl fmt::Debug for SkFrame {
    /// Without the content, which may not be encrypted yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SkFrame").field("octets", &self.message.len()).field("layout", &self.layout).finish()
    }
}

/// The parts of a message to be encrypted by an AEAD.
#[derive(Debug)]
pub struct SkPartsMut<'a> {
    /// What is authenticated besides the ciphertext: from the IKE header up to the IV.
    pub aad: &'a [u8],
    /// The IV.
    pub iv: &'a mut [u8],
    /// The payloads with their padding and its length, to be encrypted.
    pub text: &'a mut [u8],
    /// The ICV.
    pub icv: &'a mut [u8],
}

impl SkFrame {
    /// Lays out a message with one SK payload.
    pub fn new(header: &Header, chain: &Chain, layout: SkLayout) -> Result<SkFrame, EmitError> {
        SkFrame::lay_out(header, chain.first, None, &chain.octets, layout)
    }

    /// Lays out a message whose SK payload, or each SKF payload instead, fits into `max_len` octets, from the IKE header to the ICV.
    pub fn fragments(
        header: &Header,
        chain: &Chain,
        layout: SkLayout,
        max_len: usize,
    ) -> Result<Vec<SkFrame>, EmitError> {
        let whole = SkFrame::new(header, chain, layout);
        if let Ok(frame) = &whole
            && frame.message.len() <= max_len
        {
            return whole.map(|frame| vec![frame]);
        }
        let around = HEADER_LEN + GENERIC_HEADER_LEN + FRAGMENT_FIELDS_LEN + layout.iv + layout.icv;
        let block = layout.block.max(1);
        let room = (max_len.saturating_sub(around) / block * block).saturating_sub(1);
        let total = chain.octets.len().div_ceil(room.max(1));
        let total = match u16::try_from(total) {
            Ok(total) if room > 0 && total <= MAX_FRAGMENTS => total,
            _ => return Err(EmitError { what: "fragments of a message", count: total, limit: MAX_FRAGMENTS.into() }),
        };
        (1..=total)
            .zip(chain.octets.chunks(room))
            .map(|(number, piece)| {
                let first = if number == 1 { chain.first } else { PayloadType::NONE };
                SkFrame::lay_out(header, first, Some(FragmentId { number, total }), piece, layout)
            })
            .collect()
    }

    fn lay_out(
        header: &Header,
        first: PayloadType,
        fragment: Option<FragmentId>,
        plaintext: &[u8],
        layout: SkLayout,
    ) -> Result<SkFrame, EmitError> {
        let block = layout.block.max(1);
        let padding = (plaintext.len() + 1).next_multiple_of(block) - plaintext.len() - 1;
        let pad_length = super::octets::octet(padding, "octets of padding")?;
        let (kind, fields) = match fragment {
            None => (PayloadType::SK, 0),
            Some(_) => (PayloadType::SKF, FRAGMENT_FIELDS_LEN),
        };
        let payload = GENERIC_HEADER_LEN + fields + layout.iv + plaintext.len() + padding + 1 + layout.icv;
        let length = u16::try_from(payload).map_err(|_| EmitError {
            what: "octets in a payload",
            count: payload,
            limit: u16::MAX.into(),
        })?;
        let mut writer = Writer::default();
        header.emit(kind, HEADER_LEN as u32 + u32::from(length), &mut writer);
        writer.u8(first.0);
        writer.u8(0);
        writer.u16(length);
        if let Some(FragmentId { number, total }) = fragment {
            writer.u16(number);
            writer.u16(total);
        }
        let mut message = writer.into_vec();
        let iv = message.len();
        message.resize(iv + layout.iv, 0);
        message.extend_from_slice(plaintext);
        message.resize(message.len() + padding, 0);
        message.push(pad_length);
        message.resize(message.len() + layout.icv, 0);
        Ok(SkFrame { message, iv, layout })
    }

    /// All parts.
    pub fn parts_mut(&mut self) -> SkPartsMut<'_> {
        let (aad, rest) = split(&mut self.message, self.iv);
        let (iv, rest) = split(rest, self.layout.iv);
        let text = rest.len().saturating_sub(self.layout.icv);
        let (text, icv) = split(rest, text);
        SkPartsMut { aad, iv, text, icv }
    }

    /// What a separate integrity algorithm authenticates once the text is encrypted, and the place of the ICV.
    pub fn authenticated_and_icv(&mut self) -> (&[u8], &mut [u8]) {
        let at = self.message.len().saturating_sub(self.layout.icv);
        let (authenticated, icv) = split(&mut self.message, at);
        (authenticated, icv)
    }

    /// The message, once it is encrypted.
    pub fn into_message(self) -> Vec<u8> {
        self.message
    }
}

/// The fragments that a message is cut into at most, and that are taken of one.
pub const MAX_FRAGMENTS: u16 = 255;

fn split(octets: &mut [u8], at: usize) -> (&mut [u8], &mut [u8]) {
    let at = at.min(octets.len());
    octets.split_at_mut(at)
}
