//! One packet on its way through the gates: a borrowed buffer with room in front and behind, and what is known of it.

use std::net::IpAddr;
use std::ops::Range;

use crate::drop::DropReason;
use crate::lookaside::{Task, Ticket};
use crate::route::Hop;
use crate::types::{PortIndex, SeqNo, Spi};
use crate::wire::ethernet::MacPair;
use crate::wire::{self, HeaderChecksum, Headers, Inner};

/// A packet in somebody else's buffer, in one piece. On DPDK the buffer is an mbuf's, in tests a vector.
#[derive(Debug)]
#[repr(align(64))]
pub struct Packet<'p> {
    buffer: &'p mut [u8],
    start: u32,
    end: u32,
    received: u32,
    /// Where in the buffer the IP header is of what is decapsulated or passes through.
    inner_at: u32,
    port: PortIndex,
    headers: Headers,
    macs: MacPair,
    content: Content,
    /// What is in it, as far as `content` says so. Beside that and not within it: so a new packet is made of constants alone.
    decapsulated: Decapsulated,
    /// Where it goes next.
    hop: Option<Hop>,
    /// Octets of the largest IP packet in which it may leave, whatever the port's MTU.
    mtu: u16,
    /// Whether it may leave on an unprotected port.
    may_leave_unprotected: bool,
    is_own: bool,
}

// Two cache lines: a burst's packets are to stay in the CPU's first cache beside their headers.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Packet<'_>>() == 128);

/// What is in a packet that is to be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// Not known, or not to be forwarded.
    Unknown,
    /// Set by decapsulation: what came out.
    Decapsulated,
    /// Set by forwarding, of packets that aren't decapsulated: the packet that passes through.
    Transit,
}

/// What decapsulation learned of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Decapsulated {
    /// The SPI of the SA that it came in on.
    pub spi: Spi,
    /// The packet that was inside (tunnel mode), or the packet with its ESP taken out (transport mode).
    pub inner: Inner,
    /// Whether it is for this host (transport mode) rather than to be forwarded (tunnel mode).
    pub for_host: bool,
}

/// The buffer and the frame's place in it contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the frame's octets {start}..{end} lie outside its buffer of {buffer} octets")]
pub struct OutOfBuffer {
    start: usize,
    end: usize,
    buffer: usize,
}

impl<'p> Packet<'p> {
    /// A frame that was received on `port` and lies at `frame` in `buffer`. What is in front of it and behind it is
    /// room for other headers.
    pub fn new(buffer: &'p mut [u8], frame: Range<usize>, port: PortIndex) -> Result<Packet<'p>, OutOfBuffer> {
        let outside = OutOfBuffer { start: frame.start, end: frame.end, buffer: buffer.len() };
        let (Ok(start), Ok(end)) = (u32::try_from(frame.start), u32::try_from(frame.end)) else {
            return Err(outside);
        };
        if start > end || frame.end > buffer.len() {
            return Err(outside);
        }
        Ok(Packet {
            buffer,
            start,
            end,
            received: end - start,
            inner_at: 0,
            port,
            headers: Headers::default(),
            macs: MacPair::default(),
            content: Content::Unknown,
            decapsulated: Decapsulated { spi: Spi(0), inner: Inner::NONE, for_host: false },
            hop: None,
            mtu: u16::MAX,
            may_leave_unprotected: false,
            is_own: false,
        })
    }

    /// The frame.
    #[inline]
    pub fn data(&self) -> &[u8] {
        match self.buffer.get(self.range()) {
            Some(frame) => frame,
            None => outside(),
        }
    }

    /// The frame, to be changed in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        match self.buffer.get_mut(range) {
            Some(frame) => frame,
            None => outside_mut(),
        }
    }

    /// Where the frame lies in its buffer.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Cuts the frame down to these of its octets.
    #[inline]
    pub fn narrow(&mut self, part: Range<usize>) -> Result<(), OutOfBuffer> {
        let Range { start, end } = self.range();
        let (start, new_end) = (start.saturating_add(part.start), start.saturating_add(part.end));
        if start > new_end || new_end > end {
            return Err(OutOfBuffer { start, end: new_end, buffer: end });
        }
        // What lies within the frame is no longer than its end, which has 32 bits.
        (self.start, self.end) = (start as u32, new_end as u32);
        Ok(())
    }

    /// Puts room for a header of `N` octets in front of the frame; none if the buffer has no more room there. What the
    /// room holds is left over from before: the caller writes all of it.
    #[inline]
    pub fn prepend<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.start = self.start.checked_sub(N as u32)?;
        self.data_mut().first_chunk_mut()
    }

    /// Puts room in front of the frame and behind it; none, and nothing changed, if the buffer has no more. What the room
    /// holds is left over from before: the caller writes all of it.
    #[inline]
    pub fn grow(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        let Range { start, end } = self.range();
        let start = start.checked_sub(front)?;
        let end = end.checked_add(back).filter(|end| *end <= self.buffer.len())?;
        (self.start, self.end) = (start as u32, u32::try_from(end).ok()?);
        Some(self.data_mut())
    }

    /// Octets of the frame as it was received, without FCS.
    #[inline]
    pub fn received_octets(&self) -> usize {
        self.received as usize
    }

    /// The port that it was received on.
    #[inline]
    pub fn port(&self) -> PortIndex {
        self.port
    }

    /// The outer headers, as they were received. Offsets into [`Packet::data`] hold until decapsulation.
    #[inline]
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// ESP of the frame that was received, from the SPI to the end of the ICV; empty where there is none.
    #[inline]
    pub(crate) fn esp_mut(&mut self) -> &mut [u8] {
        let (Range { start, end }, esp) = (self.range(), self.headers.esp_range());
        self.buffer.get_mut(start + esp.start..end.min(start + esp.end)).unwrap_or_default()
    }

    /// What decapsulation learned, once it is done.
    #[inline]
    pub fn decapsulated(&self) -> Option<&Decapsulated> {
        (self.content == Content::Decapsulated).then_some(&self.decapsulated)
    }

    /// The source address of the IP header that the frame was received with.
    #[inline]
    pub fn outer_src(&self) -> Option<IpAddr> {
        match self.headers.v4() {
            Some(v4) => Some(v4.src().into()),
            None => self.headers.src(self.data()),
        }
    }

    /// The destination address of the IP header that the frame was received with.
    #[inline]
    pub fn outer_dst(&self) -> Option<IpAddr> {
        match self.headers.v4() {
            Some(v4) => Some(v4.dst().into()),
            None => self.headers.dst(self.data()),
        }
    }

    /// The addresses of the Ethernet header that the frame was received with.
    #[inline]
    pub fn received_macs(&self) -> MacPair {
        self.macs
    }

    /// Notes the outcome of decapsulation. From here on [`Packet::data`] begins with the inner packet's IP header.
    #[inline]
    pub fn set_decapsulated(&mut self, outcome: Decapsulated) {
        (self.content, self.decapsulated) = (Content::Decapsulated, outcome);
        self.inner_at = self.start;
    }

    /// The packet that is forwarded: what came out of a tunnel, or what passes through; none before the gate egress.
    #[inline]
    pub fn inner(&self) -> Option<&Inner> {
        (self.content != Content::Unknown).then_some(&self.decapsulated.inner)
    }

    /// Lets the frame begin with the IP header of a packet that passes through, without what lies behind its end.
    #[inline(never)]
    pub(crate) fn begin_transit(&mut self) -> Result<Inner, DropReason> {
        let at = self.headers.l3();
        let inner = Inner::parse(self.data().get(at..).unwrap_or_default())?;
        self.narrow(at..at + inner.total_len()).map_err(|_| DropReason::InnerMalformed)?;
        (self.content, self.decapsulated.inner) = (Content::Transit, inner);
        self.inner_at = self.start;
        Ok(inner)
    }

    /// The destination address of the packet that is forwarded, whose IP header the frame begins with.
    #[inline]
    pub(crate) fn inner_dst(&self) -> Option<IpAddr> {
        let inner = self.inner()?;
        match inner.v4() {
            Some(v4) => Some(v4.dst().into()),
            None => inner.dst(self.data()),
        }
    }

    /// The packet that is forwarded, from its IP header on.
    #[inline]
    pub fn ip(&self) -> &[u8] {
        let len = self.inner().map_or(0, Inner::total_len);
        let at = self.inner_at as usize;
        self.buffer.get(at..at.saturating_add(len)).unwrap_or_default()
    }

    /// Whether this host has made it.
    #[inline]
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    #[inline]
    pub(crate) fn set_own(&mut self) {
        self.is_own = true;
    }

    /// Where it goes next: known from the gate egress on.
    #[inline]
    pub fn hop(&self) -> Option<Hop> {
        self.hop
    }

    #[inline]
    pub(crate) fn set_hop(&mut self, hop: Hop) {
        self.hop = Some(hop);
    }

    /// Octets of the largest IP packet in which it may leave, whatever the port's MTU.
    #[inline]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Has it leave in packets of so many octets at most.
    #[inline]
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Whether it may leave on an unprotected port: no packet may by itself (RFC 4301 5.1).
    #[inline]
    pub fn may_leave_unprotected(&self) -> bool {
        self.may_leave_unprotected
    }

    /// Lets it leave on an unprotected port, since it is protected, or since a policy lets it bypass IPsec.
    #[inline]
    pub fn set_protected(&mut self) {
        self.may_leave_unprotected = true;
    }

    /// Notes that the packet is in another one now, whose headers these are: filters go by them from here on.
    #[inline]
    pub(crate) fn set_encapsulated(&mut self, headers: Headers) {
        self.content = Content::Unknown;
        self.headers = headers;
    }

    /// Reads the headers of the frame that was received.
    #[inline(always)]
    pub(crate) fn parse(&mut self, checksum: HeaderChecksum) -> Result<(), DropReason> {
        let frame = match self.buffer.get(self.range()) {
            Some(frame) => frame,
            None => outside(),
        };
        self.macs = MacPair::of(frame);
        wire::parse_into(frame, &mut self.headers, checksum)
    }

    #[inline]
    pub(crate) fn set_headers(&mut self, headers: Headers) {
        self.headers = headers;
        self.macs = MacPair::of(self.data());
    }

    /// What goes with it to a crypto device.
    #[inline]
    pub(crate) fn ticket(&self, seq: SeqNo, task: Task) -> Ticket {
        Ticket { port: self.port, received: self.received, seq, task }
    }

    /// Notes what was known of it before a crypto device had it.
    #[inline]
    pub(crate) fn redeem(&mut self, ticket: &Ticket) {
        self.received = ticket.received;
        match ticket.task {
            Task::Open { headers, .. } => self.set_headers(headers),
            Task::Seal { macs, mtu, .. } => (self.macs, self.mtu) = (macs, mtu),
        }
    }

    /// The addresses and numbers by which filters pick packets: of the outer packet, or, once it is decapsulated, of
    /// the inner one with the SPI that it came in on. None for frames without IP.
    pub fn selectors(&self) -> Option<PacketSelectors> {
        if let Some(inner) = self.inner() {
            let packet = self.buffer.get(self.inner_at as usize..)?;
            return Some(PacketSelectors {
                src: inner.src(packet)?,
                dst: inner.dst(packet)?,
                protocol: inner.protocol,
                ports: inner.ports(packet),
                spi: self.decapsulated().map(|decapsulated| decapsulated.spi),
            });
        }
        let (headers, frame) = (self.headers, self.data());
        Some(PacketSelectors {
            src: headers.src(frame)?,
            dst: headers.dst(frame)?,
            protocol: headers.protocol(),
            ports: headers.udp_ports(frame),
            spi: headers.spi(),
        })
    }
}

/// For a frame outside its buffer, which [`Packet`] doesn't let come about. Apart, as a value that might be one of two costs
/// the fast path more than a branch that is never taken.
#[cold]
#[inline(never)]
fn outside<'a>() -> &'a [u8] {
    &[]
}

/// As [`outside`].
#[cold]
#[inline(never)]
fn outside_mut<'a>() -> &'a mut [u8] {
    &mut []
}

/// What a filter compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketSelectors {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol number.
    pub protocol: u8,
    /// Source and destination port, where the packet shows them.
    pub ports: Option<(u16, u16)>,
    /// SPI, where the packet has one.
    pub spi: Option<Spi>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_narrows_and_grows_within_its_buffer() {
        let mut buffer = *b"....frame...";
        let mut packet = Packet::new(&mut buffer, 4..9, PortIndex(0)).unwrap();
        assert_eq!(packet.data(), b"frame");
        packet.narrow(1..4).unwrap();
        assert_eq!(packet.data(), b"ram");
        assert!(packet.narrow(0..4).is_err());
        packet.prepend::<2>().unwrap().copy_from_slice(b"XY");
        assert_eq!(packet.data(), b"XYram");
        assert!(packet.prepend::<4>().is_none());
        assert!(packet.grow(0, 5).is_none() && packet.grow(4, 0).is_none());
        assert_eq!(packet.data(), b"XYram");
        packet.grow(3, 4).unwrap()[3..5].copy_from_slice(b"ZZ");
        assert_eq!(packet.data(), b"...ZZrame...");
        assert_eq!(packet.received_octets(), 5);
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn a_frame_outside_its_buffer_is_refused() {
        let mut buffer = [0; 4];
        assert!(Packet::new(&mut buffer, 2..5, PortIndex(0)).is_err());
        assert!(Packet::new(&mut buffer, 3..2, PortIndex(0)).is_err());
    }
}
