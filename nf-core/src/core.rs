//! One core's share of the network function: its SAs, gates, counters and queues, and the way of a burst through them.
//!
//! Nothing in here allocates, locks, logs or makes a system call once the core runs. What the control thread wants
//! changed comes over a bounded queue and is applied between two bursts; what it replaces goes back over another, to
//! be freed there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use crate::batch::{Batch, Fate};
use crate::classify;
use crate::counters::CoreCounters;
use crate::decap;
use crate::drop::DropReason;
use crate::encap;
use crate::event::{Event, EventSender};
use crate::forward::{self, Ways};
use crate::icmp::Errors;
use crate::lanes::Lanes;
use crate::lookaside::{Leaving, Returned, Task, Ticket};
use crate::net::Net;
use crate::notify::CoreLimiter;
use crate::plugin::{Gate, GateTable, Gates, InstanceSlot, Plugin};
use crate::route::Resolver;
use crate::sa::inbound::{Sa, SaKey};
use crate::sa::larval::{Reservation, Settled};
use crate::sa::table::{Installed, SaTable};
use crate::spd::Spd;
use crate::stage::{Stage, StageCounters, Stopwatch};
use crate::types::{CoreId, Nanos};
use crate::wire::HeaderChecksum;

/// How many commands a core's queue holds, and how many replaced things may wait to be freed.
pub const QUEUE_LENGTH: usize = 1024;

/// How many commands a core takes between two bursts, so that many changes don't hold up traffic.
const COMMANDS_PER_POLL: usize = 32;

/// A change to a core's state.
pub enum Command {
    /// Puts an SA in, in place of one with the same key.
    InstallSa(Arc<Sa>),
    /// Takes an SA out, and remembers its key.
    DeleteSa(SaKey),
    /// Forgets a deleted SA's key.
    ForgetSa(SaKey),
    /// Reserves an SPI for an SA that is on its way.
    Reserve(Reservation),
    /// Ends a reservation that has not become an SA.
    Release(Reservation),
    /// Takes new ports and addresses.
    SetNet(Arc<Net>),
    /// Takes a new outbound policy, with the SAs that are part of it.
    SetSpd(Arc<Spd>),
    /// Takes new bindings.
    SetGates(Box<GateTable>),
    /// Puts an instance in its place, or takes it out.
    SetInstance(InstanceSlot, Option<Box<dyn Plugin>>),
}

/// Something a core has no more use for, on its way back to be freed.
pub enum Retired {
    /// An SA.
    Sa(Arc<Sa>),
    /// Ports and addresses.
    Net(Arc<Net>),
    /// The outbound policy.
    Spd(Arc<Spd>),
    /// Bindings.
    Gates(Box<GateTable>),
    /// An instance.
    Instance(Box<dyn Plugin>),
}

/// The queues and numbers that a core shares with the control thread.
pub struct Link {
    /// To the core.
    pub commands: ArrayQueue<Command>,
    /// From the core.
    pub retired: ArrayQueue<Retired>,
    /// How many commands the core has applied.
    pub applied: AtomicU64,
    /// Commands that the core could not apply: an SA for which its table had no room.
    pub refused: AtomicU64,
    /// The core's counters.
    pub counters: CoreCounters,
    /// Where the core's clocks go.
    pub stages: StageCounters,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            commands: ArrayQueue::new(QUEUE_LENGTH),
            retired: ArrayQueue::new(QUEUE_LENGTH),
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            counters: CoreCounters::default(),
            stages: StageCounters::default(),
        }
    }
}

/// What a plugin may touch on its core while it handles a burst.
pub struct CoreCx<'c> {
    /// The time when the burst was received.
    pub now: Nanos,
    /// The core.
    pub id: CoreId,
    /// The core's inbound SAs.
    pub sad: &'c SaTable,
    /// The outbound policy, and its SAs.
    pub spd: &'c Spd,
    /// Ports and local addresses.
    pub net: &'c Net,
    /// The core's counters. Packets are booked by their fate at the burst's end: a plugin doesn't count them here.
    pub counters: &'c CoreCounters,
    /// Events for the control thread.
    pub events: &'c mut EventSender,
    /// Decides which unknown SPIs are worth an event.
    pub limiter: &'c mut CoreLimiter,
    /// Decides which packets without an outbound SA are worth an event.
    pub wanted: &'c mut CoreLimiter,
    /// Decides which next hops are worth a question.
    pub resolver: &'c mut Resolver,
    /// ICMP errors that wait to be sent.
    pub errors: &'c mut Errors,
    /// Where packets have gone lately.
    pub(crate) ways: &'c mut Ways,
    /// Whether a crypto device opens and seals packets.
    pub lookaside: bool,
    /// Takes the time of the pipeline's stages.
    pub watch: Stopwatch<'c>,
}

impl CoreCx<'_> {
    /// Tells the control thread something; counts it as lost, and gives false, where the queue is full.
    #[inline]
    pub fn tell(&mut self, event: Event) -> bool {
        let sent = self.events.send(event);
        if !sent {
            self.counters.event_lost();
        }
        sent
    }
}

/// A worker core.
pub struct Core {
    id: CoreId,
    sad: SaTable,
    spd: Arc<Spd>,
    gates: Gates,
    net: Arc<Net>,
    events: EventSender,
    limiter: CoreLimiter,
    wanted: CoreLimiter,
    resolver: Resolver,
    errors: Errors,
    ways: Ways,
    link: Arc<Link>,
    lookaside: bool,
    leaving: Leaving,
    /// The reservations that the last commands ended.
    settled: ArrayVec<Settled, COMMANDS_PER_POLL>,
}

/// Where a burst enters.
#[derive(Clone, Copy)]
enum Entry<'o> {
    /// Received just now.
    Ingress,
    /// Back from a crypto device.
    Returned(&'o [Returned]),
    /// Held at the gate esp-input.
    EspInput,
    /// Made by this host.
    Own,
}

impl Core {
    /// A core without SAs and bindings, with room for `capacity` SAs.
    pub fn new(id: CoreId, capacity: usize, net: Arc<Net>, events: EventSender, link: Arc<Link>) -> Core {
        Core {
            id,
            sad: SaTable::with_capacity(capacity),
            spd: Arc::default(),
            gates: Gates::default(),
            net,
            events,
            limiter: CoreLimiter::default(),
            wanted: CoreLimiter::default(),
            resolver: Resolver::default(),
            errors: Errors::default(),
            ways: Ways::default(),
            link,
            lookaside: false,
            leaving: Leaving::default(),
            settled: ArrayVec::new(),
        }
    }

    /// Has a crypto device open and seal the packets of SAs that an engine has prepared for one. Called before the core
    /// runs: from then on whoever runs it submits the packets with [`Fate::Submit`].
    pub fn use_lookaside(&mut self) {
        (self.lookaside, self.leaving) = (true, Leaving::with_capacity(QUEUE_LENGTH));
    }

    /// The core's counters.
    pub fn counters(&self) -> &CoreCounters {
        &self.link.counters
    }

    #[cfg(test)]
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// The counters of the core's stages, for those that lie outside the pipeline.
    pub fn stages(&self) -> &StageCounters {
        &self.link.stages
    }

    /// Applies what the control thread has sent; call it between bursts, and [`Core::take_settled`] after it.
    pub fn poll_commands(&mut self) {
        self.settled.clear();
        if self.lookaside {
            self.let_go();
        }
        for _ in 0..COMMANDS_PER_POLL {
            // Each command gives back one thing at most. Without room for it the command waits.
            if self.link.retired.is_full() || (self.lookaside && self.leaving.is_full()) {
                return;
            }
            let Some(command) = self.link.commands.pop() else {
                return;
            };
            let mut retired = self.apply(command);
            if self.lookaside {
                retired = retired.and_then(|retired| self.leaving.keep(retired, self.link.counters.flights()));
            }
            if let Some(retired) = retired {
                // There is room: this core alone pushes.
                let _ = self.link.retired.push(retired);
            }
            // Release: what this core did before is done for whoever reads the number.
            self.link.applied.fetch_add(1, Ordering::Release);
        }
    }

    /// Gives up what was kept for packets that are back from the crypto device.
    fn let_go(&mut self) {
        while !self.link.retired.is_full()
            && let Some(retired) = self.leaving.take(self.link.counters.flights())
        {
            // There is room: this core alone pushes.
            let _ = self.link.retired.push(retired);
        }
    }

    /// Whether the last [`Core::poll_commands`] has ended a reservation.
    #[inline]
    pub fn has_settled(&self) -> bool {
        !self.settled.is_empty()
    }

    /// The reservations that the last [`Core::poll_commands`] has ended, in order. Whoever holds packets for them acts on
    /// it before the next burst: so they come out in front of later ones.
    pub fn take_settled(&mut self) -> ArrayVec<Settled, COMMANDS_PER_POLL> {
        std::mem::take(&mut self.settled)
    }

    /// Applies a command before the core runs, when it may still free what is replaced.
    pub fn apply_at_start(&mut self, command: Command) {
        drop(self.apply(command));
    }

    fn apply(&mut self, command: Command) -> Option<Retired> {
        match command {
            Command::InstallSa(sa) => match self.sad.install(sa) {
                Ok(Installed { replaced, matured }) => {
                    self.settle(matured.map(Settled::Matured));
                    replaced.map(Retired::Sa)
                }
                Err(refused) => {
                    self.link.refused.fetch_add(1, Ordering::Relaxed);
                    Some(Retired::Sa(refused))
                }
            },
            Command::Reserve(reservation) => {
                if !self.sad.reserve(&reservation) {
                    self.link.refused.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
            Command::Release(reservation) => {
                self.sad.release(&reservation);
                self.settle(Some(Settled::Gone(reservation.id)));
                None
            }
            Command::DeleteSa(key) => self.sad.delete(&key).map(Retired::Sa),
            Command::ForgetSa(key) => {
                self.sad.forget(&key);
                None
            }
            Command::SetNet(net) => {
                self.ways.clear();
                Some(Retired::Net(std::mem::replace(&mut self.net, net)))
            }
            Command::SetSpd(spd) => Some(Retired::Spd(std::mem::replace(&mut self.spd, spd))),
            Command::SetGates(table) => Some(Retired::Gates(self.gates.swap_table(table))),
            Command::SetInstance(slot, instance) => self.gates.swap_instance(slot, instance).map(Retired::Instance),
        }
    }

    fn settle(&mut self, settled: Option<Settled>) {
        // A command settles one at most, and there is room for each of a poll's.
        if let Some(settled) = settled {
            let _ = self.settled.try_push(settled);
        }
    }

    /// Takes a burst from ingress to each packet's fate, and books what is consumed and dropped. The caller books what
    /// it receives, and what becomes of packets with [`Fate::Send`], [`Fate::Reassemble`], [`Fate::Submit`] and
    /// [`Fate::Hold`].
    pub fn process(&mut self, now: Nanos, batch: &mut Batch<'_>) {
        self.run(Entry::Ingress, now, batch);
    }

    /// Takes packets that had [`Fate::Hold`] on to their fate, as [`Core::process`] does, from where they were held.
    pub fn resume(&mut self, now: Nanos, batch: &mut Batch<'_>) {
        self.run(Entry::EspInput, now, batch);
    }

    /// Takes packets that had [`Fate::Submit`], and are back from the crypto device, on to their fate, as
    /// [`Core::process`] does. `returned` are those of the batch, by lane. What the device has taken and given back is
    /// counted by the caller, in [`CoreCounters::flights`]: before this call.
    pub fn complete(&mut self, now: Nanos, batch: &mut Batch<'_>, returned: &[Returned]) {
        self.run(Entry::Returned(returned), now, batch);
    }

    /// Books a packet that had [`Fate::Submit`], and that the crypto device has not taken, as dropped.
    #[cold]
    pub fn not_submitted(&self, ticket: &Ticket, why: DropReason) {
        self.link.counters.drops(why).add(1, ticket.received.into());
        if let Task::Seal { sa, .. } = &ticket.task {
            sa.counters(self.id).refused.add(1);
        }
    }

    /// The ICMP errors that wait to be sent, once a burst is done: each to be put into a buffer, for [`Core::originate`].
    #[inline]
    pub fn errors(&mut self) -> &mut Errors {
        &mut self.errors
    }

    /// Takes packets that this host has made to their fate: routed, through the gate egress. Books them as made here, and
    /// else as [`Core::process`] does.
    pub fn originate(&mut self, now: Nanos, batch: &mut Batch<'_>) {
        for lane in batch.lanes() {
            self.link.counters.originated().add(1, batch.packet(lane).received_octets() as u64);
            batch.packet_mut(lane).set_own();
        }
        self.run(Entry::Own, now, batch);
    }

    fn run(&mut self, entry: Entry<'_>, now: Nanos, batch: &mut Batch<'_>) {
        let all = batch.lanes();
        let Core { id, sad, spd, gates, net, events, limiter, wanted, resolver, errors, ways, link, lookaside, .. } =
            self;
        let mut cx = CoreCx {
            now,
            id: *id,
            sad,
            spd,
            net,
            counters: &link.counters,
            events,
            limiter,
            wanted,
            resolver,
            errors,
            ways,
            lookaside: *lookaside,
            watch: Stopwatch::start(&link.stages),
        };

        let parsed = match entry {
            Entry::Returned(_) => Lanes::NONE,
            Entry::Ingress | Entry::EspInput | Entry::Own => {
                let parsed = parse(batch);
                cx.watch.lap(Stage::Parse, all.len());
                parsed
            }
        };
        let mut sealed = Lanes::NONE;
        let left = match entry {
            Entry::Ingress => {
                let left = gates.run(Gate::Ingress, &mut cx, batch, parsed);
                classify::process(&mut cx, batch, left);
                cx.watch.lap(Stage::Classify, left.len());
                let waiting = batch.take_waiting(Gate::EspInput);
                gates.run(Gate::EspInput, &mut cx, batch, waiting)
            }
            Entry::Returned(returned) => {
                all.zip(returned).for_each(|(lane, Returned { ticket, .. })| batch.packet_mut(lane).redeem(ticket));
                decap::complete(&mut cx, batch, returned);
                sealed = encap::complete(&mut cx, batch, returned);
                Lanes::NONE
            }
            Entry::EspInput => gates.resume(Gate::EspInput, &mut cx, batch, parsed),
            Entry::Own => {
                parsed.into_iter().for_each(|lane| batch.forward(lane));
                Lanes::NONE
            }
        };
        classify::not_enabled(batch, left);

        let waiting = batch.take_waiting(Gate::PostDecap);
        let left = gates.run(Gate::PostDecap, &mut cx, batch, waiting) | batch.take_forwarding();
        forward::process(&mut cx, batch, left);
        cx.watch.lap(Stage::Forward, left.len());

        let waiting = batch.take_waiting(Gate::Egress);
        let mut left = gates.run(Gate::Egress, &mut cx, batch, waiting);
        if !sealed.is_empty() {
            left |= gates.resume(Gate::Egress, &mut cx, batch, sealed);
        }
        forward::transmit(&mut cx, batch, left);

        let dropped = book(&link.counters, batch);
        if !dropped.is_empty() && gates.is_bound(Gate::Drop) {
            gates.run(Gate::Drop, &mut cx, batch, dropped);
        }
        cx.watch.lap(Stage::Account, all.len());
    }
}

/// Parses the headers of all packets; gives the lanes of those that parse.
fn parse(batch: &mut Batch<'_>) -> Lanes {
    let verified = batch.verified();
    let parsed = parse_lanes(batch, batch.lanes() - verified, HeaderChecksum::Unknown);
    match verified.is_empty() {
        true => parsed,
        false => parsed | parse_lanes(batch, verified, HeaderChecksum::Verified),
    }
}

#[inline(always)]
fn parse_lanes(batch: &mut Batch<'_>, lanes: Lanes, checksum: HeaderChecksum) -> Lanes {
    batch.sift(lanes, |packet| packet.parse(checksum))
}

/// Books consumed and dropped packets; gives the lanes of the dropped ones.
fn book(counters: &CoreCounters, batch: &mut Batch<'_>) -> Lanes {
    let mut dropped = Lanes::NONE;
    // Only a plugin that sends packets back to an earlier gate leaves one without a fate.
    batch.pending().for_each(|lane| batch.drop(lane, DropReason::Plugin));
    for lane in batch.lanes() - batch.sent() {
        let octets = batch.packet(lane).received_octets() as u64;
        match batch.fate(lane) {
            Fate::Dropped(why) => {
                counters.drops(why).add(1, octets);
                dropped.insert(lane);
            }
            Fate::Consumed(why) => counters.consumed(why).add(1, octets),
            Fate::Send(_) | Fate::Fragment { .. } | Fate::Reassemble | Fate::Submit | Fate::Hold | Fate::Pending => {}
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::types::PortIndex;

    #[test]
    fn a_checksum_is_summed_unless_the_port_has_found_it_right() {
        let mut frames = [[0u8; 64]; 3];
        for frame in &mut frames {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[14..38].copy_from_slice(&[
                0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0xBA, 0xAD, 10, 1, 1, 1, 10, 10, 1, 2, 0, 0, 0, 0,
            ]);
        }
        let mut batch = Batch::default();
        for (number, frame) in frames.iter_mut().enumerate() {
            let lane = batch.push(Packet::new(frame, 0..64, PortIndex(0)).unwrap()).unwrap();
            if number == 1 {
                batch.set_verified([lane].into_iter().collect());
            }
        }
        let [first, second, third] = batch.lanes().into_iter().collect::<Vec<_>>()[..] else { panic!("three lanes") };
        assert_eq!(parse(&mut batch).into_iter().collect::<Vec<_>>(), [second]);
        let dropped = Fate::Dropped(DropReason::Ipv4Checksum);
        assert_eq!([first, third].map(|lane| batch.fate(lane)), [dropped, dropped]);
    }
}
