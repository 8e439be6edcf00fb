//! ESP decapsulation (RFC 4303 3.4), as a plugin of the esp-input gate.
//!
//! A burst goes through five stages, each a loop over the packets that the one before has left:
//! 1. `locate`: SPI to SA; an unknown SPI ends here, before anything costly;
//! 2. `admit`: lengths, and the replay window's first look at the sequence number;
//! 3. `open`: verify and decrypt, grouped by SA;
//! 4. `commit`: the window takes the number, now that it is authentic;
//! 5. `strip`: padding, inner packet, policy, ECN; off with ESP and the outer header.
//!
//! Where a crypto device opens packets, a burst ends after `admit`, with `submit`; `complete` takes what comes back
//! through the last two stages.

mod ecn;
mod runs;
mod strip;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde_json::Value;

use self::runs::{Admitted, AdmittedByLane, Run, Runs};
use crate::batch::Batch;
use crate::core::CoreCx;
use crate::counters::Consumed;
use crate::crypto::{Chained, Layout, MultiBuffer, OpenJob};
use crate::drop::DropReason;
use crate::event::{Event, InvalidSpi, SaRef};
use crate::lanes::{BURST, Lane, Lanes};
use crate::lookaside::{Returned, Task, Ticket, Verdict};
use crate::packet::Packet;
use crate::plugin::{Gate, Instance, Plugin, PluginError, PluginKind};
use crate::sa::inbound::Sa;
use crate::sa::larval::ReservationId;
use crate::sa::replay::Refused;
use crate::sa::spec::Encap;
use crate::sa::table::{Lookup, Probe, SaTable};
use crate::stage::Stage;
use crate::types::{SeqNo, Spi};
use crate::wire::{Headers, IpVersion, ipv4};

/// The decapsulation plugin.
pub struct DecapPlugin;

impl PluginKind for DecapPlugin {
    fn name(&self) -> &'static str {
        "decap"
    }

    fn about(&self) -> &'static str {
        "ESP decapsulation with anti-replay; reports unknown SPIs"
    }

    fn gates(&self) -> &'static [Gate] {
        &[Gate::EspInput]
    }

    fn create(&self, settings: &Value, cores: usize) -> Result<Instance, PluginError> {
        if let Some((setting, _)) = settings.as_object().and_then(|table| table.iter().next()) {
            return Err(PluginError::Setting {
                setting: setting.clone(),
                problem: "decap has no settings; SAs come from [[sa]] and `nf-ctl sa add`".to_owned(),
            });
        }
        let part = || Box::new(Decap::default()) as Box<dyn Plugin>;
        Ok(Instance { cores: (0..cores).map(|_| part()).collect(), control: Box::new(()) })
    }
}

/// A core's part. SAs are the core's.
#[derive(Default)]
struct Decap {
    multi_buffer: MultiBuffer,
}

/// Why a packet goes no further now.
enum Stop {
    Drop(DropReason),
    /// Its SA is on its way.
    Hold(ReservationId),
    /// It has no SA.
    Unknown,
}

impl From<DropReason> for Stop {
    fn from(why: DropReason) -> Stop {
        Stop::Drop(why)
    }
}

impl Plugin for Decap {
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        let sad = core.sad;
        let mut runs = Runs::new();
        locate(core, sad, batch, lanes, &mut runs);
        core.watch.lap(Stage::Locate, lanes.len());
        let found = runs.lanes().len();
        let mut admitted = AdmittedByLane::new();
        for run in runs.iter_mut() {
            admit(core, batch, run, &mut admitted);
        }
        if core.lookaside {
            submit(sad, batch, &mut runs, &admitted);
        }
        core.watch.lap(Stage::Admit, found);
        let to_open = runs.lanes().len();
        open(core, &mut self.multi_buffer, batch, &mut runs, &admitted);
        core.watch.lap(Stage::Open, to_open);
        finish(core, batch, runs, &admitted);
    }

    fn holds(&self) -> bool {
        true
    }
}

/// Stages 4 and 5: from authentic packets to what was inside.
#[inline]
fn finish(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, mut runs: Runs<'_>, admitted: &AdmittedByLane) {
    let authentic = runs.lanes().len();
    commit(core, batch, &mut runs, admitted);
    core.watch.lap(Stage::Commit, authentic);
    let mut inner = runs.lanes();
    for Run { sa, lanes } in runs.iter() {
        let usual = strip::Usual::of(sa);
        for lane in *lanes {
            let payload_len = admitted.of(lane).payload_len as usize;
            match strip::strip(batch.packet_mut(lane), sa, usual.as_ref(), payload_len) {
                Ok(strip::Stripped::Inner) => {}
                Ok(strip::Stripped::Dummy) => {
                    inner.remove(lane);
                    batch.consume(lane, Consumed::Dummy);
                }
                Err(why) => {
                    inner.remove(lane);
                    sa.counters(core.id).refused.add(1);
                    batch.drop(lane, why);
                }
            }
        }
    }
    batch.send_all_to(inner, Gate::PostDecap);
    core.watch.lap(Stage::Strip, runs.lanes().len());
}

/// What an SA is looked up by.
struct Wanted {
    spi: Spi,
    ends: Ends,
}

/// The two ends of an outer packet. Those of IPv4 are compared as a number: an [`IpAddr`] that has just been made is compared
/// octet by octet in memory, and the CPU waits for what it wrote there.
enum Ends {
    V4(ipv4::Addresses),
    V6 { src: IpAddr, dst: IpAddr },
}

impl Ends {
    /// Whether two packets have the same.
    #[inline(always)]
    fn are_shared(one: &Packet<'_>, other: &Packet<'_>) -> bool {
        match (one.headers().v4(), other.headers().v4()) {
            (Some(one), Some(other)) => one.word() == other.word(),
            (None, None) => Ends::are_shared_v6(one, other),
            _ => false,
        }
    }

    #[inline(never)]
    fn are_shared_v6(one: &Packet<'_>, other: &Packet<'_>) -> bool {
        (one.outer_src(), one.outer_dst()) == (other.outer_src(), other.outer_dst())
    }
}

impl Wanted {
    #[inline]
    fn version(&self) -> IpVersion {
        match self.ends {
            Ends::V4(_) => IpVersion::V4,
            Ends::V6 { .. } => IpVersion::V6,
        }
    }

    #[inline]
    fn dst(&self) -> IpAddr {
        match self.ends {
            Ends::V4(addresses) => addresses.dst().into(),
            Ends::V6 { dst, .. } => dst,
        }
    }

    #[inline]
    fn src(&self) -> IpAddr {
        match self.ends {
            Ends::V4(addresses) => addresses.src().into(),
            Ends::V6 { src, .. } => src,
        }
    }
}

/// Neighbours in a burst that want the same SA: up to the first packet of the next flow.
struct Flow<'s> {
    spi: Spi,
    first: Lane,
    probe: Probe<'s>,
}

/// Stage 1: each packet's SA. Memory is asked for in waves, each for the whole burst, so that the core waits for the
/// slowest answer and not for the sum: the table's places, then the SAs, then what the SAs point to.
fn locate<'s>(core: &mut CoreCx<'_>, sad: &'s SaTable, batch: &mut Batch<'_>, lanes: Lanes, runs: &mut Runs<'s>) {
    let mut flows = ArrayVec::<Flow<'s>, BURST>::new();
    let mut whole = lanes;
    for lane in lanes {
        let packet = batch.packet(lane);
        let Some(spi) = packet.headers().spi() else {
            whole.remove(lane);
            batch.drop(lane, DropReason::EspTruncated);
            continue;
        };
        match flows.last() {
            Some(flow) if flow.spi == spi && Ends::are_shared(batch.packet(flow.first), packet) => {}
            _ => flows.push(Flow { spi, first: lane, probe: sad.probe(spi) }),
        }
    }
    for (index, flow) in flows.iter().enumerate() {
        let next = flows.get(index + 1).map_or(Lanes::NONE, |next| whole.starting_at(next.first));
        let lanes = whole.starting_at(flow.first) - next;
        let headers = batch.packet(flow.first).headers();
        // What is known to be IPv4 needs none of the branches for IPv6.
        match headers.v4() {
            Some(addresses) => {
                let wanted = Wanted { spi: flow.spi, ends: Ends::V4(addresses) };
                find(core, sad, batch, flow.probe, lanes, &wanted, runs);
            }
            None => find_v6(core, sad, batch, flow, lanes, runs),
        }
    }
    if runs.len() > 1 {
        for run in runs.iter() {
            run.sa.prefetch_parts(core.id);
        }
    }
}

#[inline(never)]
fn find_v6<'s>(
    core: &mut CoreCx<'_>,
    sad: &'s SaTable,
    batch: &mut Batch<'_>,
    flow: &Flow<'s>,
    lanes: Lanes,
    runs: &mut Runs<'s>,
) {
    let packet = batch.packet(flow.first);
    match (packet.outer_src(), packet.outer_dst()) {
        (Some(src), Some(dst)) => {
            let wanted = Wanted { spi: flow.spi, ends: Ends::V6 { src, dst } };
            find(core, sad, batch, flow.probe, lanes, &wanted, runs);
        }
        _ => lanes.for_each(|lane| batch.drop(lane, DropReason::EspTruncated)),
    }
}

/// Adds a flow's packets to those of its SA, or ends them.
#[inline(always)]
fn find<'s>(
    core: &mut CoreCx<'_>,
    sad: &'s SaTable,
    batch: &mut Batch<'_>,
    probe: Probe<'s>,
    lanes: Lanes,
    wanted: &Wanted,
    runs: &mut Runs<'s>,
) {
    match look_up(sad, probe, wanted) {
        Ok(sa) => {
            sa.prefetch();
            runs.add(sa, lanes);
        }
        Err(Stop::Drop(why)) => lanes.for_each(|lane| batch.drop(lane, why)),
        Err(Stop::Hold(reservation)) => lanes.for_each(|lane| batch.hold(lane, reservation)),
        Err(Stop::Unknown) => lanes.for_each(|lane| unknown(core, batch, lane, wanted)),
    }
}

/// Finds an SA, or tells why there is none.
#[inline(always)]
fn look_up<'s>(sad: &'s SaTable, probe: Probe<'s>, wanted: &Wanted) -> Result<&'s Sa, Stop> {
    let spi = wanted.spi;
    if !spi.is_assignable() {
        return Err(if spi == Spi(0) { DropReason::SpiZero } else { DropReason::SpiReserved }.into());
    }
    match sad.resolve(probe, spi, wanted.dst(), wanted.src()) {
        Lookup::Found(sa) => Ok(sa),
        Lookup::Larval(reservation) => Err(Stop::Hold(reservation)),
        Lookup::Deleted => Err(wanted.version().choose(DropReason::InvalidSaV4, DropReason::InvalidSaV6).into()),
        Lookup::Unknown => Err(Stop::Unknown),
    }
}

/// Ends a packet on an SPI that nobody has heard of; tells the control thread, within the limits.
#[inline(always)]
fn unknown(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lane: Lane, wanted: &Wanted) {
    if let Some(packets) = core.limiter.offer(core.now, wanted.src(), wanted.dst(), wanted.spi) {
        tell_unknown(core, batch.packet(lane), packets, wanted);
    }
    batch.drop(lane, wanted.version().choose(DropReason::UnknownSpiV4, DropReason::UnknownSpiV6));
}

#[cold]
fn tell_unknown(core: &mut CoreCx<'_>, packet: &Packet<'_>, packets: u32, wanted: &Wanted) {
    let headers = packet.headers();
    let event = Event::InvalidSpi(InvalidSpi {
        spi: wanted.spi,
        packets,
        seq: headers.seq_low().unwrap_or_default(),
        src: wanted.src(),
        dst: wanted.dst(),
        udp_ports: headers.udp_ports(packet.data()),
        port: packet.port(),
        core: core.id,
        at: core.now,
    });
    core.tell(event);
}

/// Stage 2: what can be said of an SA's packets before anything is spent on them.
fn admit(core: &CoreCx<'_>, batch: &mut Batch<'_>, run: &mut Run<'_>, admitted: &mut AdmittedByLane) {
    let sa = run.sa;
    let (layout, is_over, window) = (sa.layout, sa.phase().is_over(), sa.window.now());
    for lane in run.lanes {
        let headers = batch.packet(lane).headers();
        let admit = || {
            let payload_len = payload_len(layout, headers)?;
            if is_over {
                return Err(over(headers));
            }
            let low = headers.seq_low().ok_or(DropReason::EspTruncated)?;
            let seq = window.check(low).map_err(|refused| replayed(core, sa, refused))?;
            Ok(Admitted { seq, payload_len })
        };
        match admit() {
            Ok(it) => admitted.set(lane, it),
            Err(why) => {
                run.lanes.remove(lane);
                batch.drop(lane, why);
            }
        }
    }
}

/// Octets of a packet's payload.
#[inline(always)]
fn payload_len(layout: Layout, headers: Headers) -> Result<u32, DropReason> {
    let payload = layout.payload_range(headers.esp_range().len()).ok_or(DropReason::PadOrLength)?;
    Ok(payload.len() as u32)
}

/// Why a packet is dropped whose SA may take none any more.
#[cold]
fn over(headers: Headers) -> DropReason {
    headers.choose(DropReason::InvalidSaV4, DropReason::InvalidSaV6)
}

#[inline(never)]
fn replayed(core: &CoreCx<'_>, sa: &Sa, refused: Refused) -> DropReason {
    let counters = sa.counters(core.id);
    match refused {
        Refused::Duplicate => counters.replay_duplicate.add(1),
        Refused::TooOld => counters.replay_late.add(1),
    }
    DropReason::Replay
}

/// Of how many SAs the keys are asked for ahead.
const KEYS_AHEAD: usize = 2;

/// In place of stage 3, where a crypto device opens packets: each gets a ticket, in arrival order. What is left are the
/// packets of SAs that the core opens itself.
#[cold]
fn submit(sad: &SaTable, batch: &mut Batch<'_>, runs: &mut Runs<'_>, admitted: &AdmittedByLane) {
    let mut by_lane: [Option<Arc<Sa>>; BURST] = [const { None }; BURST];
    for run in runs.iter_mut().filter(|run| run.sa.opener.device().is_some()) {
        if let Some(sa) = sad.share(&run.sa.key) {
            run.lanes.for_each(|lane| by_lane[lane.index()] = Some(Arc::clone(&sa)));
        }
        run.lanes = Lanes::NONE;
    }
    for lane in batch.lanes() {
        if let Some(sa) = by_lane[lane.index()].take() {
            let packet = batch.packet(lane);
            let task = Task::Open { sa, headers: packet.headers() };
            batch.submit(lane, packet.ticket(admitted.of(lane).seq, task));
        }
    }
}

/// Takes those packets of a burst that a crypto device has opened through the stages that are left. `returned` are all of
/// the burst, in the order of their lanes.
pub(crate) fn complete(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, returned: &[Returned]) {
    let mut runs = Runs::new();
    let mut admitted = AdmittedByLane::new();
    for (lane, Returned { ticket, verdict }) in batch.lanes().zip(returned) {
        let Ticket { seq, task: Task::Open { sa, headers }, .. } = ticket else {
            continue;
        };
        let outcome = match verdict {
            Verdict::Done if sa.phase().is_over() => Err(over(*headers)),
            Verdict::Done => payload_len(sa.layout, *headers),
            Verdict::Forged => {
                sa.counters(core.id).auth_failed.add(1);
                Err(DropReason::AuthFailed)
            }
            Verdict::Failed => Err(ticket.task.failure()),
        };
        match outcome {
            Ok(payload_len) => {
                admitted.set(lane, Admitted { seq: *seq, payload_len });
                runs.add(sa, [lane].into_iter().collect());
            }
            Err(why) => batch.drop(lane, why),
        }
    }
    finish(core, batch, runs, &admitted);
}

/// Stage 3: verify and decrypt, a call to the engine for each SA's packets, and one for those of all SAs that are chained.
/// Packets that aren't authentic are dropped, and their numbers are lost on nobody: the window hasn't seen them.
fn open(
    core: &CoreCx<'_>,
    multi_buffer: &mut MultiBuffer,
    batch: &mut Batch<'_>,
    runs: &mut Runs<'_>,
    admitted: &AdmittedByLane,
) {
    // While one SA's packets are decrypted, the keys of the next two come in: a short packet alone takes less time than
    // memory does.
    (0..KEYS_AHEAD).for_each(|index| runs.prefetch_key(index, admitted));
    let mut together = Lanes::NONE;
    for index in 0..runs.len() {
        runs.prefetch_key(index + KEYS_AHEAD, admitted);
        let Some(run) = runs.get_mut(index) else {
            continue;
        };
        if run.sa.opener.chained().is_some() {
            together |= run.lanes;
            continue;
        }
        let mut work = ArrayVec::<OpenJob<'_>, BURST>::new();
        for (lane, packet) in batch.select_mut(run.lanes) {
            work.push(OpenJob::new(packet.esp_mut(), admitted.of(lane).seq.high()));
        }
        run.sa.opener.open_burst(&mut work);
        if work.iter().all(OpenJob::opened) {
            continue;
        }
        let forged: Lanes = run.lanes.zip(&work).filter(|(_, work)| !work.opened()).map(|(lane, _)| lane).collect();
        drop(work);
        drop_forged(core, batch, run, forged);
    }
    if !together.is_empty() {
        open_together(core, multi_buffer, batch, runs, admitted, together);
    }
}

/// The part of stage 3 for SAs that are chained.
#[inline(never)]
fn open_together(
    core: &CoreCx<'_>,
    multi_buffer: &mut MultiBuffer,
    batch: &mut Batch<'_>,
    runs: &mut Runs<'_>,
    admitted: &AdmittedByLane,
    lanes: Lanes,
) {
    let mut by_lane: [Option<&Chained>; BURST] = [None; BURST];
    for run in runs.iter() {
        run.lanes.for_each(|lane| by_lane[lane.index()] = run.sa.opener.chained());
    }
    let mut work = ArrayVec::<(&Chained, OpenJob<'_>), BURST>::new();
    for (lane, packet) in batch.select_mut(lanes) {
        if let Some(keys) = by_lane[lane.index()] {
            work.push((keys, OpenJob::new(packet.esp_mut(), admitted.of(lane).seq.high())));
        }
    }
    multi_buffer.open(&mut work);
    let opened: Lanes = lanes.zip(&work).filter(|(_, (_, work))| work.opened()).map(|(lane, _)| lane).collect();
    drop(work);
    let forged = lanes - opened;
    if !forged.is_empty() {
        runs.iter_mut().for_each(|run| drop_forged(core, batch, run, forged & run.lanes));
    }
}

/// Drops those of an SA's packets that aren't authentic.
fn drop_forged(core: &CoreCx<'_>, batch: &mut Batch<'_>, run: &mut Run<'_>, forged: Lanes) {
    run.lanes -= forged;
    for lane in forged {
        run.sa.counters(core.id).auth_failed.add(1);
        batch.drop(lane, DropReason::AuthFailed);
    }
}

/// Stage 4: the window takes the numbers of authentic packets. A number that came twice in one burst falls out here.
fn commit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, runs: &mut Runs<'_>, admitted: &AdmittedByLane) {
    for run in runs.iter_mut() {
        let (sa, lanes) = (run.sa, run.lanes);
        let mut refuse = |lane, why| {
            run.lanes.remove(lane);
            batch.drop(lane, replayed(core, sa, why));
        };
        match lanes.only() {
            Some(lane) => {
                if let Err(why) = sa.window.commit(admitted.of(lane).seq) {
                    refuse(lane, why);
                }
            }
            None => sa.window.commit_run(lanes.map(|lane| admitted.of(lane).seq), |index, why| {
                if let Some(lane) = lanes.into_iter().nth(index) {
                    refuse(lane, why);
                }
            }),
        }
        let Some(first) = run.lanes.into_iter().next() else {
            continue;
        };
        let (mut packets, mut octets, mut newest) = (0, 0, (admitted.of(first).seq, first));
        for lane in run.lanes {
            let Admitted { seq, payload_len } = admitted.of(lane);
            packets += 1;
            octets += u64::from(payload_len);
            if seq >= newest.0 {
                newest = (seq, lane);
            }
        }
        let counters = sa.counters(core.id);
        counters.packets.add(packets);
        counters.octets.add(octets);
        let (newest, lane) = newest;
        sa.raise_mark(newest);
        tell(core, batch.packet(lane), sa, newest);
    }
}

/// Tells the control thread what the newest of an SA's authentic packets, which has this number, shows.
fn tell(core: &mut CoreCx<'_>, packet: &Packet<'_>, sa: &Sa, seq: SeqNo) {
    let at = core.now;
    // Made only where there is something to tell: the key isn't among what a packet needs of its SA.
    let sa_ref = || SaRef { key: sa.key, id: sa.id };
    if sa.note_use() {
        core.tell(Event::FirstPacket { sa: sa_ref(), at });
    }
    if let Some((limit, unit)) = sa.note_progress(seq) {
        core.tell(Event::LimitReached { sa: sa_ref(), limit, unit, at });
    }
    // A packet that another one overtook may come from where the peer was before (RFC 7296 2.23).
    if sa.encap == Encap::Udp && sa.window.highest() == Some(seq) {
        let port = packet.headers().udp_ports(packet.data()).map(|(src, _)| src);
        if let Some(address) = packet.outer_src()
            && sa.note_source(address, port)
            && !core.tell(Event::SourceChanged { sa: sa_ref(), address, port, at })
        {
            sa.forget_source();
        }
    }
}
