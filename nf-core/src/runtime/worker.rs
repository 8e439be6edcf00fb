//! A worker core: receive, process, send.

use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_rs::{Burst, ChecksumStatus, CryptoStatus, Mbuf, Mempool, NotWritable, RxQueue, Tsc, TxQueue};

use super::clock::Clock;
use super::cryptodev::{DeviceQueue, DeviceSa};
use super::holding::Holding;
use super::reassembly::{self, Reassembler};
use super::spread::Spreader;
use crate::batch::{Batch, Fate, Tickets};
use crate::core::Core;
use crate::drop::DropReason;
use crate::fragment;
use crate::lanes::{BURST, Lane, Lanes};
use crate::lookaside::{Returned, Ticket, Verdict};
use crate::packet::Packet;
use crate::sa::larval::{ReservationId, Settled};
use crate::stage::Stage;
use crate::types::PortIndex;
use crate::wire::{Headers, ethernet};

/// How often a full transmit queue is tried before packets are dropped: drivers make room in the call.
const TX_TRIES: usize = 4;
/// How long a worker that ends waits for what a crypto device still has.
const LAST_WAIT_MS: u64 = 1000;

/// What a worker holds: its core, its queues of each port, and where packets wait to be sent.
pub(super) struct Worker {
    core: Core,
    clock: Clock,
    rx: Vec<(PortIndex, RxQueue)>,
    /// By port; none for ports that nothing leaves on.
    tx: Vec<Option<Output>>,
    pools: Pools,
    reassembler: Option<Reassembler>,
    /// Reassembled datagrams, which go through the pipeline after the burst that completed them.
    whole: Burst<BURST>,
    holding: Holding,
    spreader: Spreader,
    /// Where packets are opened and sealed, unless the core does it.
    device: Option<DeviceQueue>,
}

/// Makes a burst's packets, each in a buffer of its own, a batch; `port` tells which port a packet was received on.
#[inline]
fn lend<'b>(burst: &'b mut Burst<BURST>, batch: &mut Batch<'b>, port: impl Fn(usize) -> PortIndex) {
    let mut verified = Lanes::NONE;
    batch.extend(burst.as_mut_slice().iter_mut().enumerate().map_while(|(index, mbuf)| {
        if mbuf.ip_checksum() == ChecksumStatus::Good {
            verified.extend(Lane::new(index));
        }
        let (buffer, frame) = mbuf.buffer_mut().ok()?;
        Packet::new(buffer, frame, port(index)).ok()
    }));
    batch.set_verified(verified);
}

/// Where a worker's packets come from and go to.
pub(super) struct Queues {
    pub(super) rx: Vec<(PortIndex, RxQueue)>,
    pub(super) tx: Vec<Option<Output>>,
    pub(super) spreader: Spreader,
    pub(super) device: Option<DeviceQueue>,
}

/// Where a worker's own packets get their buffers.
#[derive(Clone)]
pub(super) struct Pools {
    /// Those into which frames are received.
    pub(super) frames: Mempool,
    /// Those for packets that don't fit one of the usual kind.
    pub(super) big: Mempool,
}

impl Pools {
    /// A frame that these parts make.
    fn frame(&self, parts: &[&[u8]]) -> Option<Mbuf> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let room = usize::from(self.frames.data_room().saturating_sub(dpdk_rs::HEADROOM));
        let mut mbuf = if len <= room { self.frames.alloc() } else { self.big.alloc() }?;
        for part in parts {
            mbuf.append(part.len()).ok()?.copy_from_slice(part);
        }
        Some(mbuf)
    }
}

/// Where a burst enters the pipeline.
#[derive(Clone, Copy)]
enum Entry<'o> {
    /// At its beginning.
    Received,
    /// Where it went to the crypto device.
    Returned(&'o [Returned]),
    /// Where it was held for an SA that has matured now.
    Held,
    /// As packets of this host.
    Own,
}

/// A port's transmit queue, and what is to leave on it.
pub(super) struct Output {
    queue: TxQueue,
    burst: Burst<BURST>,
    /// Octets of the burst.
    octets: u64,
}

impl Output {
    pub(super) fn new(queue: TxQueue) -> Output {
        Output { queue, burst: Burst::default(), octets: 0 }
    }
}

/// Where a frame begins in its buffer now, and its octets: an mbuf's buffer has 65,535 at most. Kept of each packet once its
/// buffer is no longer borrowed, so it is small.
#[derive(Clone, Copy)]
struct Place {
    start: u16,
    len: u16,
}

impl Place {
    #[inline]
    fn of(packet: &Packet<'_>) -> Place {
        let range = packet.range();
        Place { start: range.start as u16, len: range.len() as u16 }
    }

    /// Tells the mbuf.
    #[inline]
    fn set(self, mbuf: &mut Mbuf) -> Result<(), NotWritable> {
        mbuf.set_data(self.start.into(), self.len.into())
    }
}

/// What those packets that stay here need besides.
enum Stay {
    /// Of a fragment for the reassembler.
    Fragment(Headers),
    /// Of a packet that is held.
    Held(ReservationId),
}

impl Stay {
    /// None of packets that go, and that is nearly all.
    #[inline]
    fn of(batch: &Batch<'_>, lane: Lane) -> Option<Stay> {
        match batch.fate(lane) {
            Fate::Reassemble => Some(Stay::Fragment(batch.packet(lane).headers())),
            Fate::Hold => batch.reservation(lane).map(Stay::Held),
            _ => None,
        }
    }
}

impl Worker {
    pub(super) fn new(
        mut core: Core,
        clock: Clock,
        Queues { rx, tx, spreader, device }: Queues,
        pools: Pools,
        reassembler: Option<Reassembler>,
        holding: Holding,
    ) -> Worker {
        if device.is_some() {
            core.use_lookaside();
        }
        Worker { core, clock, rx, tx, pools, reassembler, whole: Burst::default(), holding, spreader, device }
    }

    /// One round over all queues; gives how many packets came.
    pub(super) fn poll(&mut self) -> usize {
        let started = Tsc::now();
        self.core.poll_commands();
        if self.core.has_settled() {
            self.settle_held();
        }
        let mut received = 0;
        for queue in 0..self.rx.len() {
            let mut burst = Burst::<BURST>::default();
            let Some((port, rx)) = self.rx.get_mut(queue) else {
                break;
            };
            let (port, mut begun) = (*port, Tsc::now());
            let count = rx.recv(&mut burst);
            if count == 0 {
                continue;
            }
            received += count;
            if self.spreader.is_due(&burst, port) {
                begun = self.hand_on(&mut burst, port, begun);
            }
            self.receive(&mut burst, port, begun);
        }
        received += self.take_over() + self.take_back();
        let tsc = Tsc::now();
        if let Some(reassembler) = &mut self.reassembler {
            reassembler.expire(tsc, self.core.counters());
        }
        self.holding.expire(tsc, self.clock, self.core.counters());
        match received {
            0 => self.core.stages().empty_poll(Tsc::now().cycles_since(started)),
            _ => self.core.stages().busy_poll(),
        }
        received
    }

    /// Hands a burst, or a part of it, on to another worker. Gives what counts as the beginning of its reception, `begun`
    /// until now: what is left is received without the time that this takes.
    fn hand_on(&mut self, burst: &mut Burst<BURST>, port: PortIndex, begun: Tsc) -> Tsc {
        let (stages, count, received) = (self.core.stages(), burst.len(), Tsc::now());
        self.spreader.hand_on(burst, port, stages);
        let clocks = Tsc::now().cycles_since(received);
        stages.add(Stage::Spread, count, clocks);
        if burst.is_empty() {
            stages.add(Stage::Receive, count, received.cycles_since(begun));
        }
        Tsc(begun.0.saturating_add(clocks))
    }

    /// Takes what other workers have handed on; gives how many packets that were.
    fn take_over(&mut self) -> usize {
        let mut taken = 0;
        for source in 0..self.spreader.sources() {
            let (mut burst, before) = (Burst::<BURST>::default(), Tsc::now());
            if let Some(port) = self.spreader.take_over(source, &mut burst, self.core.stages()) {
                taken += burst.len();
                self.receive(&mut burst, port, before);
            }
        }
        taken
    }

    /// Takes back what the crypto device is done with, and sends it on; gives how many packets that were.
    fn take_back(&mut self) -> usize {
        let mut taken = 0;
        // Nothing is received meanwhile, and what was opened goes in once more at most, to be sealed: this ends.
        while let Some(device) = self.device.as_mut().filter(|device| !device.is_empty()) {
            let begun = Tsc::now();
            let mut burst = Burst::<BURST>::default();
            let mut returned = ArrayVec::<Returned, BURST>::new();
            let count = device.poll(&mut burst, |ticket, status| {
                let verdict = match status {
                    CryptoStatus::Done => Verdict::Done,
                    CryptoStatus::AuthFailed => Verdict::Forged,
                    CryptoStatus::Failed => Verdict::Failed,
                };
                returned.push(Returned { ticket, verdict });
            });
            if count == 0 {
                break;
            }
            taken += count;
            self.core.counters().flights().give_back(count as u64);
            self.process(&mut burst, PortIndex(0), Entry::Returned(&returned), begun);
        }
        taken
    }

    /// Hands a packet to the crypto device; drops it where that has too many already.
    fn submit(&mut self, mut packet: Mbuf, ticket: Ticket) {
        let job = DeviceSa::of(&ticket.task).and_then(|sa| {
            let work = sa.work(packet.data_mut().ok()?, &ticket)?;
            Some((Arc::clone(sa.session()), work))
        });
        let (Some((session, work)), Some(device)) = (job, &mut self.device) else {
            return self.core.not_submitted(&ticket, ticket.task.failure());
        };
        match device.push(packet, &session, &work, ticket) {
            Ok(()) => self.core.counters().flights().submit(1),
            Err((_, ticket)) => self.core.not_submitted(&ticket, DropReason::CryptoQueueFull),
        }
    }

    /// Waits for what the crypto device has, and gives up what it doesn't give back.
    fn empty_device(&mut self) {
        let started = Tsc::now();
        let wait = self.clock.counts(LAST_WAIT_MS);
        while self.device.as_ref().is_some_and(|device| !device.is_empty()) {
            if self.take_back() == 0 && Tsc::now().cycles_since(started) > wait {
                break;
            }
        }
        let lost = self.device.as_ref().map_or(0, DeviceQueue::len) as u64;
        if lost > 0 {
            // How many octets they have the device knows.
            self.core.counters().flights().give_back(lost);
            self.core.counters().drops(DropReason::CryptoError).add(lost, 0);
        }
    }

    /// Books a burst as received and takes it through the pipeline. What is handed on is booked by the worker that takes
    /// it over, so that each worker's packets add up.
    fn receive(&mut self, burst: &mut Burst<BURST>, port: PortIndex, begun: Tsc) {
        let (mut octets, mut lendable) = (0, true);
        for packet in burst.as_slice() {
            octets += packet.pkt_len();
            lendable &= packet.is_lendable();
            // The headers are read next.
            packet.prefetch();
        }
        self.core.counters().rx().add(burst.len() as u64, octets as u64);
        if !lendable {
            self.flatten(burst);
        }
        self.process(burst, port, Entry::Received, begun);
        if !self.whole.is_empty() {
            let mut whole = std::mem::take(&mut self.whole);
            self.flatten(&mut whole);
            self.process(&mut whole, port, Entry::Received, Tsc::now());
        }
    }

    /// Sends on what was held for SAs that have matured, in order and in front of what is received next; gives up what
    /// was held for reservations that have ended.
    #[cold]
    fn settle_held(&mut self) {
        for settled in self.core.take_settled() {
            let id = match settled {
                Settled::Matured(id) => id,
                Settled::Gone(id) => {
                    self.holding.give_up(id, self.core.counters());
                    continue;
                }
            };
            let mut burst = Burst::<BURST>::default();
            let mut burst_port = PortIndex(0);
            while let Some(held) = self.holding.pop(id) {
                if burst.is_full() || held.port != burst_port {
                    self.process(&mut burst, burst_port, Entry::Held, Tsc::now());
                }
                burst_port = held.port;
                // There is room: a full burst has just been processed.
                drop(burst.push(held.buffer));
            }
            self.process(&mut burst, burst_port, Entry::Held, Tsc::now());
        }
    }

    /// Does what others have handed on, until all have finished receiving, and gives up what is incomplete: there is
    /// nothing more to come.
    pub(super) fn finish(&mut self) {
        self.spreader.close();
        while self.take_over() > 0 || !self.spreader.is_over() {
            std::hint::spin_loop();
        }
        self.empty_device();
        if let Some(reassembler) = &mut self.reassembler {
            reassembler.finish(self.core.counters());
        }
        self.holding.finish(self.core.counters());
    }

    /// Takes a burst, which is empty afterwards, through the pipeline and sends what comes out of it; `begun` is when its
    /// reception began.
    fn process(&mut self, burst: &mut Burst<BURST>, port: PortIndex, entry: Entry<'_>, begun: Tsc) {
        if burst.is_empty() {
            return;
        }
        let count = burst.len();
        let mut places = ArrayVec::<Place, BURST>::new();
        let mut staying = ArrayVec::<Stay, BURST>::new();
        let mut tickets = Tickets::new();
        let fates;
        {
            let mut batch = Batch::default();
            match entry {
                Entry::Returned(returned) => {
                    lend(burst, &mut batch, |index| returned.get(index).map_or(port, |returned| returned.ticket.port))
                }
                Entry::Received | Entry::Held | Entry::Own => lend(burst, &mut batch, |_| port),
            }
            let tsc = Tsc::now();
            let stage = if let Entry::Returned(_) = entry { Stage::Device } else { Stage::Receive };
            self.core.stages().add(stage, count, tsc.cycles_since(begun));
            match entry {
                Entry::Received => self.core.process(self.clock.at(tsc), &mut batch),
                Entry::Returned(returned) => self.core.complete(self.clock.at(tsc), &mut batch, returned),
                Entry::Held => self.core.resume(self.clock.at(tsc), &mut batch),
                Entry::Own => self.core.originate(self.clock.at(tsc), &mut batch),
            }
            debug_assert_eq!(batch.lanes().count(), count, "what isn't lendable was flattened");
            places.extend(batch.packets().iter().map(Place::of));
            staying.extend((batch.lanes() - batch.sent()).filter_map(|lane| Stay::of(&batch, lane)));
            fates = batch.fates();
            if self.device.is_some() {
                tickets = batch.take_tickets();
            }
        }
        let tsc = Tsc::now();
        if !self.send_all(burst, &fates, &places) {
            self.send_each(burst, port, &fates, &places, (&mut staying, &mut tickets), tsc);
        }
        if let Some(device) = &mut self.device {
            device.submit();
        }
        for output in 0..self.tx.len() {
            self.flush(PortIndex(output as u8));
        }
        self.core.stages().add(Stage::Transmit, count, Tsc::now().cycles_since(tsc));
        if !self.core.errors().is_empty() {
            self.send_errors();
        }
    }

    /// Sends a burst whose packets all leave on one port; whether they do.
    #[inline]
    fn send_all(&mut self, burst: &mut Burst<BURST>, fates: &[Fate; BURST], places: &[Place]) -> bool {
        let [first @ Fate::Send(to), ..] = fates else {
            return false;
        };
        let all = fates.iter().zip(places).all(|(fate, _)| fate == first);
        let Some(Some(output)) = self.tx.get_mut(to.index()) else {
            return false;
        };
        if !all || burst.len() != places.len() || !output.burst.is_empty() {
            return false;
        }
        let mut octets = 0;
        for (mbuf, place) in burst.iter_mut().zip(places) {
            if place.set(mbuf).is_err() {
                return false;
            }
            octets += u64::from(place.len);
        }
        output.octets = octets;
        std::mem::swap(&mut output.burst, burst);
        true
    }

    /// Does with each packet of a burst what its fate is.
    fn send_each(
        &mut self,
        burst: &mut Burst<BURST>,
        port: PortIndex,
        fates: &[Fate; BURST],
        places: &[Place],
        (staying, tickets): (&mut ArrayVec<Stay, BURST>, &mut Tickets),
        tsc: Tsc,
    ) {
        let (mut staying, mut tickets) = (staying.drain(..), tickets.drain(..));
        let mut done = Burst::<BURST>::default();
        for ((mut mbuf, fate), place) in burst.drain().zip(fates).zip(places) {
            match *fate {
                Fate::Send(to) => {
                    let octets = mbuf.pkt_len() as u64;
                    match place.set(&mut mbuf) {
                        Ok(()) => self.queue(mbuf, to),
                        Err(_) => self.core.counters().drops(DropReason::NoBuffer).add(1, octets),
                    }
                }
                Fate::Fragment { port, mtu } => {
                    let set = place.set(&mut mbuf);
                    self.fragment(&mbuf, port, mtu.into(), set.is_ok());
                    drop(done.push(mbuf));
                }
                Fate::Reassemble | Fate::Hold => match staying.next() {
                    Some(Stay::Fragment(headers)) => self.reassemble(mbuf, headers, tsc),
                    Some(Stay::Held(id)) => {
                        self.holding.hold(id, mbuf, port, self.clock.at(tsc), self.core.counters());
                    }
                    None => {}
                },
                Fate::Submit => {
                    if let Some(ticket) = tickets.next() {
                        match place.set(&mut mbuf) {
                            Ok(()) => self.submit(mbuf, ticket),
                            Err(_) => self.core.not_submitted(&ticket, DropReason::NoBuffer),
                        }
                    }
                }
                // Freed together: `done` has room for a burst.
                Fate::Dropped(_) | Fate::Consumed(_) | Fate::Pending => drop(done.push(mbuf)),
            }
        }
    }

    /// Sends the ICMP errors that a burst has given rise to. They give rise to no others.
    #[cold]
    fn send_errors(&mut self) {
        let (mut burst, mut received) = (Burst::<BURST>::default(), PortIndex(0));
        while let Some((frame, port)) = self.core.errors().take() {
            received = port;
            // Without a buffer there is none: it is a courtesy.
            if let Some(mbuf) = self.pools.frame(&[frame]) {
                drop(burst.push(mbuf));
            }
        }
        self.process(&mut burst, received, Entry::Own, Tsc::now());
    }

    /// Sends a frame's packet in fragments, each in a buffer of its own.
    #[cold]
    fn fragment(&mut self, frame: &Mbuf, to: PortIndex, mtu: usize, is_sound: bool) {
        let octets = frame.pkt_len() as u64;
        let sent =
            frame.data().split_at_checked(ethernet::HEADER_LEN).filter(|_| is_sound).and_then(|(link, packet)| {
                fragment::split(packet, mtu, |header, payload| match self.pools.frame(&[link, header, payload]) {
                    Some(mbuf) => self.queue(mbuf, to),
                    None => self.core.counters().drops(DropReason::NoBuffer).add(1, payload.len() as u64),
                })
            });
        match sent {
            Some(count) => self.core.counters().originated().add(count.saturating_sub(1) as u64, 0),
            None => self.core.counters().drops(DropReason::MtuExceeded).add(1, octets),
        }
    }

    /// Puts packets that lie in several buffers, or in one that is shared, into one each.
    #[cold]
    fn flatten(&mut self, burst: &mut Burst<BURST>) {
        let mut flat = Burst::default();
        for mut mbuf in burst.drain() {
            if !mbuf.is_lendable() {
                match mbuf.linearise_into(&self.pools.big) {
                    Ok(copy) => mbuf = copy,
                    Err(packet) => {
                        let reason = match ethernet::payload(packet.data()) {
                            _ if self.pools.big.available() == 0 => DropReason::NoBuffer,
                            Some((ethernet::ethertype::IPV6, _)) => DropReason::TooBigV6,
                            _ => DropReason::TooBigV4,
                        };
                        self.core.counters().drops(reason).add(1, packet.pkt_len() as u64);
                        continue;
                    }
                }
            }
            drop(flat.push(mbuf));
        }
        *burst = flat;
    }

    fn reassemble(&mut self, fragment: Mbuf, headers: Headers, now: Tsc) {
        let counters = self.core.counters();
        let Some(reassembler) = &mut self.reassembler else {
            counters.drops(reassembly::damaged(headers)).add(1, fragment.pkt_len() as u64);
            return;
        };
        if let Some(whole) = reassembler.insert(fragment, headers, now, counters) {
            // A burst of fragments completes no more datagrams than it has packets.
            drop(self.whole.push(whole));
        }
    }

    #[inline]
    fn queue(&mut self, packet: Mbuf, to: PortIndex) {
        let octets = packet.pkt_len() as u64;
        let Some(Some(output)) = self.tx.get_mut(to.index()) else {
            return self.core.counters().drops(DropReason::NoRoute).add(1, octets);
        };
        match output.burst.push(packet) {
            Ok(()) => output.octets += octets,
            Err(packet) => self.flush_for(packet, to),
        }
    }

    /// Makes room for a packet.
    #[cold]
    fn flush_for(&mut self, packet: Mbuf, to: PortIndex) {
        self.flush(to);
        // There is room now: `flush` leaves nothing.
        self.queue(packet, to);
    }

    /// Sends what waits for a port; what the port doesn't take is dropped.
    fn flush(&mut self, port: PortIndex) {
        let Some(Some(Output { queue, burst, octets })) = self.tx.get_mut(port.index()) else {
            return;
        };
        if burst.is_empty() {
            return;
        }
        let (all, all_octets) = (burst.len() as u64, std::mem::take(octets));
        for _ in 0..TX_TRIES {
            queue.send(burst);
            if burst.is_empty() {
                break;
            }
        }
        let left_octets = burst.iter().map(Mbuf::pkt_len).sum::<usize>() as u64;
        let left = burst.len() as u64;
        let counters = self.core.counters();
        counters.tx().add(all - left, all_octets - left_octets);
        if left > 0 {
            counters.drops(DropReason::TxFull).add(left, left_octets);
            burst.clear();
        }
    }
}
