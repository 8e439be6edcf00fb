//! VICI's frames and packets, without I/O. The format is that of strongSwan's `src/libcharon/plugins/vici/README.md`.

use serde::Serialize;

/// The longest frame that charon sends or takes, in octets, without its length field.
pub const MAX_FRAME: usize = 512 * 1024;

/// How deep sections may be nested. charon's deepest message has five levels.
const MAX_DEPTH: usize = 16;

mod kind {
    pub(super) const CMD_REQUEST: u8 = 0;
    pub(super) const CMD_RESPONSE: u8 = 1;
    pub(super) const CMD_UNKNOWN: u8 = 2;
    pub(super) const EVENT_REGISTER: u8 = 3;
    pub(super) const EVENT_UNREGISTER: u8 = 4;
    pub(super) const EVENT_CONFIRM: u8 = 5;
    pub(super) const EVENT_UNKNOWN: u8 = 6;
    pub(super) const EVENT: u8 = 7;
}

/// Octets that are no packet of VICI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    /// A frame longer than [`MAX_FRAME`].
    #[error("a frame of {0} octets, where {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// The frame ends within a field.
    #[error("a packet ends too early")]
    Truncated,
    /// A type that clients don't get.
    #[error("a packet of the unknown type {0}")]
    Type(u8),
    /// An event whose name isn't text.
    #[error("an event without a proper name")]
    Name,
    /// A message whose elements aren't in order, or nested without end.
    #[error("a message whose sections don't fit together")]
    Message,
}

/// A packet that charon sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    /// The answer to a command, a message.
    Response(Vec<u8>),
    /// There is no such command.
    UnknownCommand,
    /// An event was subscribed to, or no longer is.
    Confirm,
    /// There is no such event.
    UnknownEvent,
    /// An event.
    Event {
        /// Its name.
        name: String,
        /// Its message.
        message: Vec<u8>,
    },
}

impl Packet {
    /// Takes a frame from the front of what was received; none if it isn't all there yet.
    ///
    /// # Errors
    /// [`PacketError`]. What follows in the stream can't be understood then.
    pub fn take(received: &mut Vec<u8>) -> Result<Option<Packet>, PacketError> {
        let Some((length, rest)) = received.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(PacketError::TooLong(length));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let packet = Packet::decode(frame)?;
        received.drain(..length.saturating_add(4));
        Ok(Some(packet))
    }

    /// Reads a frame, without its length field.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn decode(frame: &[u8]) -> Result<Packet, PacketError> {
        let (&kind, rest) = frame.split_first().ok_or(PacketError::Truncated)?;
        Ok(match kind {
            kind::CMD_RESPONSE => Packet::Response(checked(rest)?),
            kind::CMD_UNKNOWN => Packet::UnknownCommand,
            kind::EVENT_CONFIRM => Packet::Confirm,
            kind::EVENT_UNKNOWN => Packet::UnknownEvent,
            kind::EVENT => {
                let (&length, rest) = rest.split_first().ok_or(PacketError::Truncated)?;
                let (name, message) = rest.split_at_checked(usize::from(length)).ok_or(PacketError::Truncated)?;
                let name = std::str::from_utf8(name).map_err(|_| PacketError::Name)?.to_owned();
                Packet::Event { name, message: checked(message)? }
            }
            other => return Err(PacketError::Type(other)),
        })
    }
}

/// A message whose elements are whole and whose sections are closed and not too deep: its decoder recurses into them.
fn checked(message: &[u8]) -> Result<Vec<u8>, PacketError> {
    fn skip(octets: &[u8], length: usize) -> Result<&[u8], PacketError> {
        octets.get(length..).ok_or(PacketError::Truncated)
    }
    fn skip_name(octets: &[u8]) -> Result<&[u8], PacketError> {
        let (&length, rest) = octets.split_first().ok_or(PacketError::Truncated)?;
        skip(rest, usize::from(length))
    }
    fn skip_value(octets: &[u8]) -> Result<&[u8], PacketError> {
        let (length, rest) = octets.split_first_chunk().ok_or(PacketError::Truncated)?;
        skip(rest, usize::from(u16::from_be_bytes(*length)))
    }
    let (mut rest, mut depth, mut in_list) = (message, 0usize, false);
    while let Some((&element, after)) = rest.split_first() {
        rest = match (element, in_list) {
            (1, false) if depth < MAX_DEPTH => {
                depth = depth.saturating_add(1);
                skip_name(after)?
            }
            (2, false) => {
                depth = depth.checked_sub(1).ok_or(PacketError::Message)?;
                after
            }
            (3, false) => skip_value(skip_name(after)?)?,
            (4, false) => {
                in_list = true;
                skip_name(after)?
            }
            (5, true) => skip_value(after)?,
            (6, true) => {
                in_list = false;
                after
            }
            _ => return Err(PacketError::Message),
        };
    }
    match (depth, in_list) {
        (0, false) => Ok(message.to_owned()),
        _ => Err(PacketError::Message),
    }
}

/// A command, as a frame with its length field.
///
/// # Errors
/// What the command's arguments can't be written for.
pub fn command(name: &str, arguments: &impl Serialize) -> Result<Vec<u8>, serde_vici::Error> {
    Ok(frame(kind::CMD_REQUEST, name, &serde_vici::to_vec(arguments)?))
}

/// A subscription to an event, or its end, as a frame with its length field.
pub fn subscription(event: &str, on: bool) -> Vec<u8> {
    frame(if on { kind::EVENT_REGISTER } else { kind::EVENT_UNREGISTER }, event, &[])
}

fn frame(kind: u8, name: &str, message: &[u8]) -> Vec<u8> {
    // Names are this program's own, and short.
    let name_length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let name = name.as_bytes().get(..usize::from(name_length)).unwrap_or_default();
    let length = u32::try_from(name.len().saturating_add(message.len()).saturating_add(2)).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[kind, name_length], name, message].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of VICI's README.
    const EXAMPLE: &[u8] =
        b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02\
        \x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";

    #[test]
    fn frames_come_in_pieces() {
        let frame = frame(kind::EVENT, "ike-updown", EXAMPLE);
        let (mut received, mut packets) = (Vec::new(), Vec::new());
        for octet in [&frame[..], &frame[..]].concat() {
            received.push(octet);
            packets.extend(Packet::take(&mut received).unwrap());
        }
        let wanted = Packet::Event { name: "ike-updown".to_owned(), message: EXAMPLE.to_owned() };
        assert_eq!(packets, [wanted.clone(), wanted]);
        assert!(received.is_empty());
    }

    #[test]
    fn a_command_has_this_layout() {
        #[derive(Serialize)]
        struct Arguments {
            ike: &'static str,
        }
        let frame = command("rekey", &Arguments { ike: "gw" }).unwrap();
        assert_eq!(frame, b"\x00\x00\x00\x10\x00\x05rekey\x03\x03ike\x00\x02gw"[..].to_vec());
        assert_eq!(subscription("log", true), b"\x00\x00\x00\x05\x03\x03log");
        assert_eq!(subscription("log", false), b"\x00\x00\x00\x05\x04\x03log");
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let decode = |frame: &[u8]| Packet::decode(frame).unwrap_err();
        assert_eq!(decode(b""), PacketError::Truncated);
        assert_eq!(decode(b"\x09"), PacketError::Type(9));
        assert_eq!(decode(b"\x07\x05ike"), PacketError::Truncated);
        assert_eq!(decode(b"\x07\x01\xff"), PacketError::Name);
        assert_eq!(decode(b"\x01\x02"), PacketError::Message);
        assert_eq!(decode(b"\x01\x01\x01a"), PacketError::Message);
        assert_eq!(decode(b"\x01\x03\x01a\x00\x09b"), PacketError::Truncated);
        assert_eq!(decode(b"\x01\x04\x01a\x03\x01b\x00\x00\x06"), PacketError::Message);
        let nested = [b"\x01".to_vec(), b"\x01\x01a".repeat(1000), b"\x02".repeat(1000)].concat();
        assert_eq!(decode(&nested), PacketError::Message);
        let mut long = (MAX_FRAME as u32 + 1).to_be_bytes().to_vec();
        assert_eq!(Packet::take(&mut long), Err(PacketError::TooLong(MAX_FRAME + 1)));
    }

    proptest! {
        #[test]
        fn any_octets_are_taken_or_refused(mut octets in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = octets.first_mut() {
                *first &= 7;
            }
            let _ = Packet::decode(&octets);
        }

        #[test]
        fn a_message_that_passes_can_be_decoded_to_its_end(octets in prop::collection::vec(0u8..8, 0..60)) {
            if checked(&octets).is_ok() {
                let _ = serde_vici::from_slice::<serde::de::IgnoredAny>(&octets);
            }
        }
    }
}
