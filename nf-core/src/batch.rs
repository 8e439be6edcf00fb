//! A burst of packets on its way through the gates, with each packet's fate.

use arrayvec::ArrayVec;

use crate::counters::Consumed;
use crate::drop::DropReason;
use crate::lanes::{BURST, Lane, Lanes};
use crate::lookaside::Ticket;
use crate::packet::Packet;
use crate::plugin::Gate;
use crate::sa::larval::ReservationId;
use crate::types::PortIndex;

/// What becomes of a packet. Each gets exactly one fate besides `Pending`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Still on its way.
    Pending,
    /// Leaves on this port.
    Send(PortIndex),
    /// Leaves on this port, but is too long for it: cut by whoever owns the buffer, with [`fragment`](crate::fragment).
    Fragment {
        /// The port.
        port: PortIndex,
        /// The longest packet that it takes, in octets.
        mtu: u16,
    },
    /// Ends here by design.
    Consumed(Consumed),
    /// Ends here for this reason.
    Dropped(DropReason),
    /// A fragment for the reassembler, which owns its buffer from here on.
    Reassemble,
    /// To be opened or sealed by a crypto device: submitted by whoever owns the buffer, under its [`Ticket`], and sent
    /// through [`Core::complete`](crate::core::Core::complete) when the device gives it back.
    Submit,
    /// Early on a larval SPI: held by whoever owns the buffer, under [`Batch::reservation`], and sent through
    /// [`Core::resume`](crate::core::Core::resume) when the SA has matured.
    Hold,
}

/// A burst of packets. Reused by nobody: it lives as long as the borrow of the packets' buffers.
#[derive(Debug)]
pub struct Batch<'p> {
    packets: ArrayVec<Packet<'p>, BURST>,
    fates: [Fate; BURST],
    /// The lanes whose fate isn't sealed.
    pending: Lanes,
    /// Those that leave on a port.
    sent: Lanes,
    /// The lanes that wait at each gate.
    waiting: [Lanes; Gate::COUNT],
    /// The lanes that wait to be forwarded, past the gates in between.
    forwarding: Lanes,
    /// The lanes that a plugin has sent, dropped or consumed since the last look.
    moved: Lanes,
    /// The lanes whose IPv4 header checksum the port has found right.
    verified: Lanes,
    /// The lanes that are held, and for which reservation.
    held: ArrayVec<(Lane, ReservationId), BURST>,
    /// The lanes that go to a crypto device, each with its ticket.
    tickets: ArrayVec<(Lane, Ticket), BURST>,
}

/// The tickets of a burst's packets, in the order of their lanes.
pub type Tickets = ArrayVec<Ticket, BURST>;

impl Default for Batch<'_> {
    fn default() -> Self {
        Batch {
            packets: ArrayVec::new(),
            fates: [Fate::Pending; BURST],
            pending: Lanes::NONE,
            sent: Lanes::NONE,
            waiting: [Lanes::NONE; Gate::COUNT],
            forwarding: Lanes::NONE,
            moved: Lanes::NONE,
            verified: Lanes::NONE,
            held: ArrayVec::new(),
            tickets: ArrayVec::new(),
        }
    }
}

impl<'p> Extend<Packet<'p>> for Batch<'p> {
    /// Adds received packets, as many as there is room for.
    #[inline]
    fn extend<I: IntoIterator<Item = Packet<'p>>>(&mut self, packets: I) {
        let before = self.packets.len();
        self.packets.extend(packets.into_iter().take(BURST - before));
        self.pending |= Lanes::first_n(self.packets.len()) - Lanes::first_n(before);
    }
}

impl<'p> Batch<'p> {
    /// Adds a received packet; none, and the packet isn't in it, when [`BURST`] are in.
    #[inline]
    pub fn push(&mut self, packet: Packet<'p>) -> Option<Lane> {
        let lane = Lane::new(self.packets.len())?;
        self.packets.try_push(packet).ok()?;
        self.pending.insert(lane);
        Some(lane)
    }

    /// Notes of which packets the port has found the IPv4 header's checksum right. What it finds wrong is for the core to look at: a
    /// port that is mistaken then costs no packet.
    #[inline]
    pub fn set_verified(&mut self, lanes: Lanes) {
        self.verified |= lanes;
    }

    /// The lanes whose IPv4 header checksum the port has found right.
    #[inline]
    pub(crate) fn verified(&self) -> Lanes {
        self.verified
    }

    /// All packets' lanes.
    #[inline]
    pub fn lanes(&self) -> Lanes {
        Lanes::first_n(self.packets.len())
    }

    /// The packet in a lane of this batch.
    ///
    /// # Panics
    /// With a lane that is not of this batch; [`Batch::lanes`] and the lanes that a plugin is handed always are.
    #[inline]
    pub fn packet(&self, lane: Lane) -> &Packet<'p> {
        &self.packets[lane.index()]
    }

    /// The packet in a lane of this batch, to be changed.
    ///
    /// # Panics
    /// As [`Batch::packet`].
    #[inline]
    pub fn packet_mut(&mut self, lane: Lane) -> &mut Packet<'p> {
        &mut self.packets[lane.index()]
    }

    /// These packets and their lanes, all at once.
    #[inline]
    pub fn select_mut(&mut self, lanes: Lanes) -> impl Iterator<Item = (Lane, &mut Packet<'p>)> {
        let (mut rest, mut next) = (self.packets.iter_mut(), 0);
        lanes.filter_map(move |lane| {
            let skipped = lane.index() - next;
            next = lane.index() + 1;
            Some((lane, rest.nth(skipped)?))
        })
    }

    /// All packets, by lane.
    #[inline]
    pub fn packets(&self) -> &[Packet<'p>] {
        &self.packets
    }

    /// All packets at once, by lane, for stages that need several of them mutably.
    #[inline]
    pub fn packets_mut(&mut self) -> &mut [Packet<'p>] {
        &mut self.packets
    }

    /// Hands each of these packets to `check`, and drops those that it finds a reason for; gives the others.
    #[inline]
    pub(crate) fn sift(
        &mut self,
        lanes: Lanes,
        mut check: impl FnMut(&mut Packet<'p>) -> Result<(), DropReason>,
    ) -> Lanes {
        // Nearly all pass. A set to which each is added would be written to memory and read back from packet to packet.
        let mut passed = lanes;
        for lane in lanes {
            if let Err(why) = check(self.packet_mut(lane)) {
                passed.remove(lane);
                self.drop(lane, why);
            }
        }
        passed
    }

    /// What became of the packet in a lane.
    #[inline]
    pub fn fate(&self, lane: Lane) -> Fate {
        self.fates[lane.index()]
    }

    /// What became of the packets, by lane.
    #[inline]
    pub fn fates(&self) -> [Fate; BURST] {
        self.fates
    }

    /// Drops the packet. This is the only way to lose one. A packet whose fate is sealed keeps it.
    #[inline(never)]
    pub fn drop(&mut self, lane: Lane, why: DropReason) {
        self.settle(lane, Fate::Dropped(why));
    }

    /// Ends the packet's way here by design. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn consume(&mut self, lane: Lane, why: Consumed) {
        self.settle(lane, Fate::Consumed(why));
    }

    /// Lets the packet leave on a port, past the gates that are left. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn transmit(&mut self, lane: Lane, port: PortIndex) {
        if self.pending.contains(lane) {
            self.settle(lane, Fate::Send(port));
            self.sent.insert(lane);
        }
    }

    /// Lets each of these packets leave on the port that `port` gives for it; gives those for which it has none. Packets
    /// whose fate is sealed keep it.
    #[inline]
    pub(crate) fn transmit_all(
        &mut self,
        lanes: Lanes,
        mut port: impl FnMut(&Packet<'p>) -> Option<PortIndex>,
    ) -> Lanes {
        let lanes = lanes & self.pending;
        let mut kept = Lanes::NONE;
        for lane in lanes {
            match port(self.packet(lane)) {
                Some(port) => self.fates[lane.index()] = Fate::Send(port),
                None => kept.insert(lane),
            }
        }
        let sent = lanes - kept;
        self.pending -= sent;
        self.moved |= sent;
        self.sent |= sent;
        kept
    }

    /// Lets the packet leave on a port in fragments. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn fragment(&mut self, lane: Lane, port: PortIndex, mtu: u16) {
        self.settle(lane, Fate::Fragment { port, mtu });
    }

    /// Hands a fragment to the reassembler. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn reassemble(&mut self, lane: Lane) {
        self.settle(lane, Fate::Reassemble);
    }

    /// Has the packet held until a reservation's SA has matured. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn hold(&mut self, lane: Lane, reservation: ReservationId) {
        if self.pending.contains(lane) {
            self.settle(lane, Fate::Hold);
            // A lane is settled once, so there is room.
            let _ = self.held.try_push((lane, reservation));
        }
    }

    /// What a packet with [`Fate::Hold`] waits for.
    pub fn reservation(&self, lane: Lane) -> Option<ReservationId> {
        self.held.iter().find(|(held, _)| *held == lane).map(|(_, reservation)| *reservation)
    }

    /// Has the packet opened or sealed by a crypto device. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn submit(&mut self, lane: Lane, ticket: Ticket) {
        if self.pending.contains(lane) {
            self.settle(lane, Fate::Submit);
            // A lane is settled once, so there is room.
            let _ = self.tickets.try_push((lane, ticket));
        }
    }

    /// Takes the tickets of the packets with [`Fate::Submit`].
    #[inline]
    pub fn take_tickets(&mut self) -> Tickets {
        // Encapsulation submits the packets of one SA after those of another.
        if !self.tickets.is_sorted_by_key(|(lane, _)| *lane) {
            self.tickets.sort_unstable_by_key(|(lane, _)| *lane);
        }
        self.tickets.drain(..).map(|(_, ticket)| ticket).collect()
    }

    /// Sends the packet to a gate. A packet whose fate is sealed keeps it.
    #[inline]
    pub fn send_to(&mut self, lane: Lane, gate: Gate) {
        self.send_all_to([lane].into_iter().collect(), gate);
    }

    /// Sends packets to a gate, all at once. Those whose fate is sealed keep it.
    #[inline]
    pub fn send_all_to(&mut self, lanes: Lanes, gate: Gate) {
        let lanes = lanes & self.pending;
        self.waiting[gate.index()] |= lanes;
        self.moved |= lanes;
    }

    /// The packets whose fate isn't sealed.
    #[inline]
    pub fn pending(&self) -> Lanes {
        self.pending
    }

    /// The packets that leave on a port.
    #[inline]
    pub fn sent(&self) -> Lanes {
        self.sent
    }

    /// Has a packet forwarded that passes through as it is. A packet whose fate is sealed keeps it.
    #[inline]
    pub(crate) fn forward(&mut self, lane: Lane) {
        if self.fates[lane.index()] == Fate::Pending {
            self.forwarding.insert(lane);
            self.moved.insert(lane);
        }
    }

    /// Takes the lanes that wait to be forwarded.
    #[inline]
    pub(crate) fn take_forwarding(&mut self) -> Lanes {
        std::mem::take(&mut self.forwarding)
    }

    #[inline]
    fn settle(&mut self, lane: Lane, fate: Fate) {
        if self.pending.contains(lane) {
            self.pending.remove(lane);
            self.fates[lane.index()] = fate;
            self.moved.insert(lane);
        }
    }

    /// Takes the lanes that wait at a gate.
    #[inline]
    pub(crate) fn take_waiting(&mut self, gate: Gate) -> Lanes {
        std::mem::take(&mut self.waiting[gate.index()])
    }

    /// Takes the lanes that were moved since the last call.
    #[inline]
    pub(crate) fn take_moved(&mut self) -> Lanes {
        std::mem::take(&mut self.moved)
    }
}
