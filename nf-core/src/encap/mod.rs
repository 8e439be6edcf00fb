//! ESP encapsulation (RFC 4303 3.3), as a plugin of the egress gate.
//!
//! Of a burst's packets those are looked at that would leave on an unprotected port. They go through these stages, each a
//! loop over the packets that the one before has left:
//! 1. `choose`: the outbound policy says which SA each packet goes by, if it may leave at all;
//! 2. `number`: each SA gives its packets sequence numbers that no other core gets;
//! 3. `build`: outer headers, ESP header, padding and trailer around the packet;
//! 4. `seal`: encrypt and authenticate, grouped by SA;
//! 5. `send`: the new packet is routed by its own destination.
//!
//! Where a crypto device seals packets, a burst ends after `build`, with `submit`; `complete` takes what comes back through
//! the last stage.
//!
//! A packet of which the policy says nothing is left alone, and so dropped by forwarding, which lets nothing leave an
//! unprotected port that nobody has protected.

mod outer;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde_json::Value;

use crate::batch::Batch;
use crate::config::PortRole;
use crate::core::CoreCx;
use crate::crypto::{HEADER_LEN, MAX_IV_LEN, SealJob};
use crate::drop::DropReason;
use crate::event::{Event, SaRef, SaWanted};
use crate::forward;
use crate::icmp::Problem;
use crate::lanes::{BURST, Lane, Lanes};
use crate::lookaside::{self, Returned, Task, Ticket};
use crate::net::NetPort;
use crate::packet::Packet;
use crate::plugin::{Gate, Instance, Plugin, PluginError, PluginKind};
use crate::sa::outbound::OutboundSa;
use crate::sa::spec::{Df, Mode};
use crate::spd::{Flow, PolicyId, Verdict};
use crate::types::{Nanos, SeqNo, Spi};
use crate::wire::{self, HeaderChecksum, Inner, IpVersion, ethernet, ipv4, ipv6, transport};

pub use outer::Outer;
use outer::{PerPacket, write_esp};

/// The encapsulation plugin.
pub struct EncapPlugin;

impl PluginKind for EncapPlugin {
    fn name(&self) -> &'static str {
        "encap"
    }

    fn about(&self) -> &'static str {
        "ESP encapsulation of what leaves on unprotected ports, by the outbound policy"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::Egress]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        if let Some((setting, _)) = settings.as_object().and_then(|table| table.iter().next()) {
            return Err(PluginError::Setting {
                setting: setting.clone(),
                problem: "encap has no settings; policies come from [[policy]], SAs from [[sa]] and `nf-ctl sa add`"
                    .to_owned(),
            });
        }
        Ok(Instance { cores: (0..cores).map(|_| Box::new(Encap) as Box<dyn Plugin>).collect(), control: Box::new(()) })
    }
}

/// A core's part. It has no state of its own: policy and SAs are the core's.
struct Encap;

/// A packet whose SA is known.
#[derive(Clone, Copy)]
struct Job<'s> {
    lane: Lane,
    sa: &'s Arc<OutboundSa>,
    inner: Inner,
    seq: SeqNo,
    df: bool,
    /// Where ESP begins in the outer packet.
    esp_at: usize,
}

/// The packets of a burst that are still in the race, at most one a lane.
type Jobs<'s> = ArrayVec<Job<'s>, BURST>;

impl Plugin for Encap {
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        let mut jobs = Jobs::new();
        choose(core, batch, lanes, &mut jobs);
        if jobs.is_empty() {
            return;
        }
        if !jobs.is_sorted_by_key(|job| job.sa.id) {
            // By SA, and in arrival order within an SA.
            jobs.sort_unstable_by_key(|job| (job.sa.id, job.lane));
        }
        number(core, batch, &mut jobs);
        build(core, batch, &mut jobs);
        if core.lookaside {
            submit(batch, &mut jobs);
        }
        seal(core, batch, &mut jobs);
        send(core, batch, &jobs);
    }

    fn holds(&self) -> bool {
        true
    }
}

/// What the policy is asked about a packet: its source, its destination, and more where that counts.
type Asked = (IpAddr, IpAddr, Flow);

/// Stage 1: what the policy says of each packet that would leave on an unprotected port.
fn choose<'s>(core: &mut CoreCx<'s>, batch: &mut Batch<'_>, lanes: Lanes, jobs: &mut Jobs<'s>) {
    let (spd, net) = (core.spd, core.net);
    // Neighbours are often of one flow.
    let mut last: Option<(Asked, Option<&Verdict>)> = None;
    for lane in lanes {
        let packet = batch.packet(lane);
        let Some(port) = packet.hop().and_then(|hop| net.port(hop.port)) else {
            continue;
        };
        if port.role != PortRole::Unprotected || packet.may_leave_unprotected() {
            continue;
        }
        let (Some(inner), Some(ip)) = (packet.inner().copied(), packet.data().get(ethernet::HEADER_LEN..)) else {
            continue;
        };
        let (Some(src), Some(dst)) = (inner.src(ip), inner.dst(ip)) else {
            continue;
        };
        let flow = match spd.is_by_flow() {
            true => Flow { protocol: inner.protocol, ports: inner.selector_ports(ip) },
            false => Flow::default(),
        };
        let verdict = match last {
            Some((asked, verdict)) if asked == (src, dst, flow) => verdict,
            _ => spd.look_up(src, dst, flow),
        };
        last = Some(((src, dst, flow), verdict));
        match verdict {
            None => {}
            Some(Verdict::Protect(sa)) => match admit(ip, inner, sa, path_mtu(sa, port, core.now)) {
                Ok(Admitted { df, cut_to }) => {
                    let esp_at = match sa.mode {
                        Mode::Tunnel => sa.outer.len(),
                        Mode::Transport => inner.l4() + sa.outer.len(),
                    };
                    jobs.push(Job { lane, sa, inner, seq: SeqNo(0), df, esp_at });
                    if let Some(mtu) = cut_to {
                        batch.packet_mut(lane).set_mtu(mtu);
                    }
                }
                Err(why) => {
                    sa.counters(core.id).refused.add(1);
                    if why == DropReason::OutDfSet {
                        tell_mtu(core, packet, inner, sa, port);
                    }
                    batch.drop(lane, why);
                }
            },
            Some(Verdict::Bypass) => batch.packet_mut(lane).set_protected(),
            Some(Verdict::Discard) => {
                batch.drop(lane, inner.version.choose(DropReason::OutDenyV4, DropReason::OutDenyV6));
            }
            Some(Verdict::NoSa(policy)) => {
                want(core, *policy, src, dst);
                batch.drop(lane, inner.version.choose(DropReason::OutIkeV4, DropReason::OutIkeV6));
            }
        }
    }
}

/// Asks the control thread for an SA, within limits.
#[cold]
fn want(core: &mut CoreCx<'_>, policy: PolicyId, src: IpAddr, dst: IpAddr) {
    if let Some(packets) = core.wanted.offer(core.now, src, dst, Spi(policy.0)) {
        core.tell(Event::SaWanted(SaWanted { policy, src, dst, packets, at: core.now }));
    }
}

/// Tells a packet's sender how long it may be so that it goes into the tunnel (RFC 4301 8.2).
#[cold]
fn tell_mtu(core: &mut CoreCx<'_>, packet: &Packet<'_>, inner: Inner, sa: &OutboundSa, port: &NetPort) {
    let room = path_mtu(sa, port, core.now).saturating_sub(sa.outer.len());
    let mtu = match sa.mode {
        Mode::Tunnel => sa.layout.data_within(room),
        Mode::Transport => inner.l4() + sa.layout.data_within(room.saturating_sub(inner.l4())),
    };
    core.errors.offer(core.net, core.now, packet, Problem::TooBig { mtu: mtu as u16 });
}

/// The longest packet that an SA's path takes, as far as it is known.
#[inline]
fn path_mtu(sa: &OutboundSa, port: &NetPort, now: Nanos) -> usize {
    sa.path_mtu(now).unwrap_or(u16::MAX).min(port.mtu).into()
}

/// How a packet goes by its SA.
struct Admitted {
    /// The outer DF bit.
    df: bool,
    /// The largest fragment, where the outer packet is to be cut here: nobody on the way cuts one of IPv6.
    cut_to: Option<u16>,
}

/// Whether a packet can go by its SA, on a path that takes outer packets of `mtu` octets at most.
#[inline]
fn admit(ip: &[u8], inner: Inner, sa: &OutboundSa, mtu: usize) -> Result<Admitted, DropReason> {
    if sa.phase().is_over() {
        return Err(inner.version.choose(DropReason::OutInvalidSaV4, DropReason::OutInvalidSaV6));
    }
    let inner_df = match inner.version {
        IpVersion::V4 => ipv4::dont_fragment(ip),
        // A sender of IPv6 can't be told to send less than all links take (RFC 8200 5, RFC 2473 7.1).
        IpVersion::V6 => sa.mode == Mode::Transport || inner.total_len() > ipv6::MIN_MTU,
    };
    let (len, df) = match sa.mode {
        Mode::Tunnel => {
            let df = match sa.df {
                Df::Copy => inner_df,
                Df::Set => true,
                Df::Clear => false,
            };
            (sa.outer.len() + sa.layout.esp_len(inner.total_len()), df)
        }
        Mode::Transport => {
            // Transport mode is for packets between the SA's two ends, and for whole ones (RFC 4301 4.1).
            let is_between = inner.src(ip) == Some(sa.key.src) && inner.dst(ip) == Some(sa.key.dst);
            if !is_between || inner.fragment {
                return Err(inner.version.choose(DropReason::OutPolicyV4, DropReason::OutPolicyV6));
            }
            (inner.l4() + sa.outer.len() + sa.layout.esp_len(inner.total_len() - inner.l4()), inner_df)
        }
    };
    if len > usize::from(u16::MAX) {
        return Err(inner.version.choose(DropReason::OutTooBigV4, DropReason::OutTooBigV6));
    }
    if df && len > mtu {
        return Err(DropReason::OutDfSet);
    }
    let cut = len > mtu && sa.outer.version() == IpVersion::V6;
    Ok(Admitted { df, cut_to: cut.then_some(mtu as u16) })
}

/// Stage 2: sequence numbers, a block for each SA's packets. Those for which none are left are dropped: the SA has come to
/// its end.
fn number(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    let mut left_out = Lanes::NONE;
    for run in jobs.chunk_by_mut(|a, b| a.sa.id == b.sa.id) {
        let Some(sa) = run.first().map(|job| job.sa) else {
            continue;
        };
        let mut numbers = sa.take_numbers(run.len());
        for job in run {
            match numbers.next() {
                Some(number) => job.seq = SeqNo(number),
                None => {
                    left_out.insert(job.lane);
                    sa.counters(core.id).refused.add(1);
                    batch.drop(job.lane, DropReason::OutSequence);
                }
            }
        }
    }
    if !left_out.is_empty() {
        for job in jobs.iter().filter(|job| left_out.contains(job.lane)) {
            note_progress(core, job.sa, job.sa.highest().unwrap_or(SeqNo(0)));
        }
        jobs.retain(|job| !left_out.contains(job.lane));
    }
}

/// Stage 3: the new packet around the old one, everything but encryption.
fn build(core: &CoreCx<'_>, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    jobs.retain(|job| {
        let built = wrap(batch.packet_mut(job.lane), job);
        if built.is_none() {
            job.sa.counters(core.id).refused.add(1);
            batch.drop(job.lane, DropReason::OutNoRoom);
        }
        built.is_some()
    });
}

/// Turns a frame into an outer IP packet. None where the buffer has no room for it.
#[inline]
fn wrap(packet: &mut Packet<'_>, job: &Job<'_>) -> Option<()> {
    let Job { sa, inner, seq, .. } = *job;
    let (layout, outer) = (sa.layout, &sa.outer);
    let ip = ethernet::HEADER_LEN..ethernet::HEADER_LEN + inner.total_len();
    packet.narrow(ip).ok()?;
    // What is encrypted: the whole packet, or what is behind its IP header.
    let kept = match sa.mode {
        Mode::Tunnel => 0,
        Mode::Transport => inner.l4(),
    };
    let data_len = inner.total_len() - kept;
    let front = outer.len() + HEADER_LEN + usize::from(layout.iv_len);
    let esp_len = layout.esp_len(data_len);
    // The Ethernet header will want room as well.
    packet.range().start.checked_sub(front + ethernet::HEADER_LEN)?;
    let octets = packet.grow(front, outer.len() + esp_len - front - data_len)?;
    let next_header = match (sa.mode, inner.version) {
        (Mode::Tunnel, IpVersion::V4) => wire::protocol::IPV4,
        (Mode::Tunnel, IpVersion::V6) => wire::protocol::IPV6,
        (Mode::Transport, _) => {
            octets.copy_within(front..front + kept, 0);
            let at = inner.next_header_at(octets)?;
            let named = std::mem::replace(octets.get_mut(at)?, outer.protocol());
            let len = octets.len();
            match inner.version {
                IpVersion::V4 => ipv4::set_total_length(octets, len),
                IpVersion::V6 => wire::ipv6::set_total_length(octets, len),
            }
            named
        }
    };
    // Numbers of an SA follow each other, so that no two of its packets under way have the same (RFC 6864 4.3).
    let own = PerPacket { tos: inner.tos, df: job.df, id: seq.low() as u16 };
    outer.write(octets.get_mut(kept..)?, own)?;
    write_esp(octets.get_mut(job.esp_at..)?, layout, sa.key.spi, seq, data_len, next_header)
}

/// In place of stage 4, where a crypto device seals packets: each gets a ticket. What is left are the packets of SAs that
/// the core seals itself.
#[cold]
fn submit(batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    jobs.retain(|job| {
        if job.sa.sealer().device().is_none() {
            return true;
        }
        let packet = batch.packet(job.lane);
        let (sa, macs, mtu) = (Arc::clone(job.sa), packet.received_macs(), packet.mtu());
        // Behind the headers of an IP packet, whose length has 16 bits.
        let task = Task::Seal { sa, esp_at: job.esp_at as u16, macs, mtu };
        batch.submit(job.lane, packet.ticket(job.seq, task));
        false
    });
}

/// Takes those packets of a burst that a crypto device has sealed through the stage that is left; gives those that are on
/// their way. `returned` are all of the burst, in the order of their lanes. What was built before its SA was exchanged or
/// came to its end leaves as it was built.
pub(crate) fn complete(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, returned: &[Returned]) -> Lanes {
    let mut sent = Lanes::NONE;
    for (lane, Returned { ticket, verdict }) in batch.lanes().zip(returned) {
        let Ticket { seq, task: Task::Seal { sa, esp_at, .. }, .. } = ticket else {
            continue;
        };
        let packet = batch.packet_mut(lane);
        let counters = sa.counters(core.id);
        if *verdict != lookaside::Verdict::Done {
            counters.refused.add(1);
            batch.drop(lane, ticket.task.failure());
            continue;
        }
        counters.packets.add(1);
        counters.octets.add(payload_octets(sa, packet.data().len().saturating_sub((*esp_at).into())));
        match address(core, packet, sa) {
            Ok(()) => sent.insert(lane),
            Err(why) => batch.drop(lane, why),
        }
        note_progress(core, sa, *seq);
    }
    sent
}

/// Octets of the payload of an ESP packet that was sealed: what lifetimes count.
#[inline]
fn payload_octets(sa: &OutboundSa, esp_len: usize) -> u64 {
    sa.layout.payload_range(esp_len).map_or(0, |payload| payload.len() as u64)
}

/// Stage 4: encrypt and authenticate, a call to the engine for each SA's run of packets.
fn seal(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    let mut by_lane: [&mut [u8]; BURST] = std::array::from_fn(|_| Default::default());
    for (packet, slot) in batch.packets_mut().iter_mut().zip(&mut by_lane) {
        *slot = packet.data_mut();
    }
    let mut sealed = Lanes::NONE;
    for run in jobs.chunk_by(|a, b| a.sa.id == b.sa.id) {
        let Some(sa) = run.first().map(|job| job.sa) else {
            continue;
        };
        let ivs: ArrayVec<[u8; MAX_IV_LEN], BURST> = run
            .iter()
            .map(|job| {
                let mut iv = [0; MAX_IV_LEN];
                sa.ivs().write(job.seq, &mut iv);
                iv
            })
            .collect();
        let mut work = ArrayVec::<SealJob<'_>, BURST>::new();
        for (job, iv) in run.iter().zip(&ivs) {
            let esp = std::mem::take(&mut by_lane[job.lane.index()]).get_mut(job.esp_at..).unwrap_or_default();
            let iv = iv.get(..sa.layout.iv_len.into()).unwrap_or_default();
            work.push(SealJob::new(esp, job.seq.high(), iv));
        }
        sa.sealer().seal_burst(&mut work);
        let (mut packets, mut octets) = (0, 0);
        for (job, work) in run.iter().zip(&work) {
            if work.sealed() {
                sealed.insert(job.lane);
                packets += 1;
                octets += payload_octets(sa, work.esp.len());
            }
        }
        let counters = sa.counters(core.id);
        counters.packets.add(packets);
        counters.octets.add(octets);
        counters.refused.add(run.len() as u64 - packets);
        if let Some(newest) = run.last() {
            note_progress(core, sa, newest.seq);
        }
    }
    if sealed.len() != jobs.len() {
        jobs.retain(|job| {
            let done = sealed.contains(job.lane);
            if !done {
                batch.drop(job.lane, DropReason::OutCryptoError);
            }
            done
        });
    }
}

fn note_progress(core: &mut CoreCx<'_>, sa: &OutboundSa, newest: SeqNo) {
    if let Some((limit, unit)) = sa.note_progress(newest) {
        let (at, sa) = (core.now, SaRef { key: sa.key, id: sa.id });
        core.tell(Event::LimitReached { sa, limit, unit, at });
    }
}

/// Stage 5: each packet gets its own next hop.
fn send(core: &CoreCx<'_>, batch: &mut Batch<'_>, jobs: &Jobs<'_>) {
    for job in jobs {
        if let Err(why) = address(core, batch.packet_mut(job.lane), job.sa) {
            batch.drop(job.lane, why);
        }
    }
}

/// Completes a sealed packet, and gives it its next hop.
#[inline]
fn address(core: &CoreCx<'_>, packet: &mut Packet<'_>, sa: &OutboundSa) -> Result<(), DropReason> {
    if sa.outer.has_udp() && IpVersion::of(packet.data()) == Some(IpVersion::V6) {
        // IPv4 does without (RFC 3948 2.1), receivers of IPv6 may not (RFC 8200 8.1).
        if let Ok(outer) = Inner::parse(packet.data()) {
            transport::refresh_checksum(packet.data_mut(), &outer);
        }
    }
    forward::reroute(core.net, packet)?;
    packet.set_encapsulated(wire::parse_with(packet.data(), HeaderChecksum::Verified)?);
    Ok(())
}
