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
mod strip;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use serde_json::Value;

use crate::batch::Batch;
use crate::core::CoreCx;
use crate::counters::Consumed;
use crate::crypto::OpenJob;
use crate::drop::DropReason;
use crate::event::{Event, InvalidSpi, SaRef};
use crate::lanes::{BURST, Lane, Lanes};
use crate::lookaside::{Opened, Ticket, Verdict};
use crate::packet::Packet;
use crate::plugin::{Gate, Instance, Plugin, PluginError, PluginKind};
use crate::sa::inbound::Sa;
use crate::sa::larval::ReservationId;
use crate::sa::replay::Refused;
use crate::sa::spec::Encap;
use crate::sa::table::{Lookup, Probe, SaTable};
use crate::stage::Stage;
use crate::types::{SeqNo, Spi};
use crate::wire::{Headers, IpVersion};

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
        Ok(Instance { cores: (0..cores).map(|_| Box::new(Decap) as Box<dyn Plugin>).collect(), control: Box::new(()) })
    }
}

/// A core's part. It has no state of its own: SAs are the core's.
struct Decap;

/// Why a packet goes no further now.
enum Stop {
    Drop(DropReason),
    /// Its SA is on its way.
    Hold(ReservationId),
}

impl From<DropReason> for Stop {
    fn from(why: DropReason) -> Stop {
        Stop::Drop(why)
    }
}

/// A packet whose SA is known.
#[derive(Clone, Copy)]
struct Job<'s> {
    lane: Lane,
    sa: &'s Sa,
    seq: SeqNo,
    /// Octets of the ESP payload.
    payload_len: u32,
}

/// The packets of a burst that are still in the race, at most one a lane.
type Jobs<'s> = ArrayVec<Job<'s>, BURST>;

impl Plugin for Decap {
    fn process(&mut self, core: &mut CoreCx<'_>, batch: &mut Batch<'_>, lanes: Lanes) {
        let sad = core.sad;
        let mut found = Found::new();
        let several = locate(core, sad, batch, lanes, &mut found);
        core.watch.lap(Stage::Locate, lanes.len());
        let mut jobs = Jobs::new();
        for (lane, sa) in &found {
            match admit(core, batch, *lane, sa) {
                Ok(job) => jobs.push(job),
                Err(why) => batch.drop(*lane, why),
            }
        }
        if core.lookaside {
            submit(sad, batch, &mut jobs);
        }
        if several {
            jobs = by_sa(&jobs);
        }
        core.watch.lap(Stage::Admit, found.len());
        let admitted = jobs.len();
        open(core, batch, &mut jobs);
        core.watch.lap(Stage::Open, admitted);
        finish(core, batch, jobs);
    }

    fn holds(&self) -> bool {
        true
    }
}

/// Stages 4 and 5: from authentic packets to what was inside.
#[inline]
fn finish(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, mut jobs: Jobs<'_>) {
    let authentic = jobs.len();
    commit(core, batch, &mut jobs);
    core.watch.lap(Stage::Commit, authentic);
    let mut inner = Lanes::NONE;
    for job in &jobs {
        match strip::strip(batch.packet_mut(job.lane), job.sa, job.payload_len as usize) {
            Ok(strip::Stripped::Inner) => inner.insert(job.lane),
            Ok(strip::Stripped::Dummy) => batch.consume(job.lane, Consumed::Dummy),
            Err(why) => {
                job.sa.counters(core.id).refused.add(1);
                batch.drop(job.lane, why);
            }
        }
    }
    batch.send_all_to(inner, Gate::PostDecap);
    core.watch.lap(Stage::Strip, jobs.len());
}

/// Packets and their SAs.
type Found<'s> = ArrayVec<(Lane, &'s Sa), BURST>;

/// What an SA is looked up by.
type Wanted = (Spi, IpAddr, IpAddr);

/// Stage 1: each packet's SA. Memory is asked for in waves, each for the whole burst, so that the core waits for the
/// slowest answer and not for the sum: the table's places, then the SAs, then what the SAs point to. Gives whether there
/// may be several SAs.
fn locate<'s>(
    core: &mut CoreCx<'_>,
    sad: &'s SaTable,
    batch: &mut Batch<'_>,
    lanes: Lanes,
    found: &mut Found<'s>,
) -> bool {
    let mut probes = [Probe::default(); BURST];
    let mut before = (Spi(0), Probe::default());
    for lane in lanes {
        let Some(spi) = batch.packet(lane).headers().spi() else {
            continue;
        };
        if spi != before.0 {
            before = (spi, sad.probe(spi));
        }
        probes[lane.index()] = before.1;
    }
    // Neighbours are often of one SA.
    let mut last: Option<(Wanted, &Sa)> = None;
    let mut several = false;
    for lane in lanes {
        let packet = batch.packet(lane);
        let (headers, frame) = (packet.headers(), packet.data());
        let (Some(spi), Some(src), Some(dst)) = (headers.spi(), headers.src(frame), headers.dst(frame)) else {
            batch.drop(lane, DropReason::EspTruncated);
            continue;
        };
        let wanted = (spi, dst, src);
        if let Some((same, sa)) = last
            && same == wanted
        {
            found.push((lane, sa));
            continue;
        }
        match look_up(core, sad, probes[lane.index()], packet, wanted) {
            Ok(sa) => {
                sa.prefetch();
                several |= last.is_some();
                last = Some((wanted, sa));
                found.push((lane, sa));
            }
            Err(Stop::Drop(why)) => batch.drop(lane, why),
            Err(Stop::Hold(reservation)) => batch.hold(lane, reservation),
        }
    }
    if several {
        for (_, sa) in &*found {
            sa.prefetch_parts(core.id);
        }
    }
    several
}

/// Finds a packet's SA, or tells why it has none.
fn look_up<'s>(
    core: &mut CoreCx<'_>,
    sad: &'s SaTable,
    probe: Probe<'s>,
    packet: &Packet<'_>,
    (spi, dst, src): Wanted,
) -> Result<&'s Sa, Stop> {
    if !spi.is_assignable() {
        return Err(if spi == Spi(0) { DropReason::SpiZero } else { DropReason::SpiReserved }.into());
    }
    let headers = packet.headers();
    let v6 = headers.version() == Some(IpVersion::V6);
    match sad.resolve(probe, spi, dst, src) {
        Lookup::Found(sa) => Ok(sa),
        Lookup::Larval(reservation) => Err(Stop::Hold(reservation)),
        Lookup::Deleted => Err(if v6 { DropReason::InvalidSaV6 } else { DropReason::InvalidSaV4 }.into()),
        Lookup::Unknown => {
            if let Some(packets) = core.limiter.offer(core.now, src, dst, spi) {
                let frame = packet.data();
                let event = Event::InvalidSpi(InvalidSpi {
                    spi,
                    packets,
                    seq: headers.seq_low().unwrap_or_default(),
                    src,
                    dst,
                    udp_ports: headers.udp_ports(frame),
                    port: packet.port(),
                    core: core.id,
                    at: core.now,
                });
                core.tell(event);
            }
            Err(if v6 { DropReason::UnknownSpiV6 } else { DropReason::UnknownSpiV4 }.into())
        }
    }
}

/// Stage 2: what can be said of the packet before anything is spent on it.
fn admit<'s>(core: &CoreCx<'_>, batch: &Batch<'_>, lane: Lane, sa: &'s Sa) -> Result<Job<'s>, DropReason> {
    let headers = batch.packet(lane).headers();
    let payload = usable(sa, headers)?;
    let low = headers.seq_low().ok_or(DropReason::EspTruncated)?;
    let seq = sa.window.check(low).map_err(|refused| replayed(core, sa, refused))?;
    Ok(Job { lane, sa, seq, payload_len: payload })
}

/// Octets of the payload of a packet that the SA may still take.
#[inline(always)]
fn usable(sa: &Sa, headers: Headers) -> Result<u32, DropReason> {
    let payload = sa.layout.payload_range(headers.esp_range().len()).ok_or(DropReason::PadOrLength)?;
    if sa.phase().is_over() {
        let v6 = headers.version() == Some(IpVersion::V6);
        return Err(if v6 { DropReason::InvalidSaV6 } else { DropReason::InvalidSaV4 });
    }
    Ok(payload.len() as u32)
}

fn replayed(core: &CoreCx<'_>, sa: &Sa, refused: Refused) -> DropReason {
    let counters = sa.counters(core.id);
    match refused {
        Refused::Duplicate => counters.replay_duplicate.add(1),
        Refused::TooOld => counters.replay_late.add(1),
    }
    DropReason::Replay
}

/// The same jobs by SA, and in arrival order within an SA.
fn by_sa<'s>(jobs: &Jobs<'s>) -> Jobs<'s> {
    // Numbers are sorted without branches, and moved as a whole; jobs would be neither.
    let mut order: ArrayVec<u64, BURST> =
        jobs.iter().enumerate().map(|(place, job)| u64::from(job.sa.id) << 8 | place as u64).collect();
    order.sort_unstable();
    order.iter().filter_map(|key| jobs.get(usize::from(*key as u8))).copied().collect()
}

/// Jobs that are of one SA and stand side by side.
fn runs<'j, 's>(jobs: &'j [Job<'s>]) -> impl Iterator<Item = &'j [Job<'s>]> {
    jobs.chunk_by(|a, b| a.sa.id == b.sa.id)
}

/// Of how many SAs the keys are asked for ahead.
const KEYS_AHEAD: usize = 2;

/// In place of stage 3, where a crypto device opens packets: each gets a ticket, in arrival order. What is left are the
/// packets of SAs that the core opens itself.
#[cold]
fn submit(sad: &SaTable, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    let mut last: Option<Arc<Sa>> = None;
    jobs.retain(|job| {
        if job.sa.opener.device().is_none() {
            return true;
        }
        let shared = last.take().filter(|sa| sa.id == job.sa.id).or_else(|| sad.share(&job.sa.key));
        if let Some(sa) = &shared {
            let packet = batch.packet(job.lane);
            let ticket = Ticket { sa: Arc::clone(sa), seq: job.seq, headers: packet.headers(), port: packet.port() };
            batch.submit(job.lane, ticket);
        }
        last = shared;
        false
    });
}

/// Takes a burst that has come back from a crypto device through the stages that are left. `opened` are its packets' in
/// the order of their lanes.
pub(crate) fn complete(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, opened: &[Opened]) {
    let mut jobs = Jobs::new();
    for (lane, Opened { ticket, verdict }) in batch.lanes().into_iter().zip(opened) {
        let Ticket { sa, seq, headers, .. } = ticket;
        let outcome = match verdict {
            Verdict::Authentic => usable(sa, *headers),
            Verdict::Forged => {
                sa.counters(core.id).auth_failed.add(1);
                Err(DropReason::AuthFailed)
            }
            Verdict::Failed => Err(DropReason::CryptoError),
        };
        match outcome {
            Ok(payload_len) => jobs.push(Job { lane, sa, seq: *seq, payload_len }),
            Err(why) => batch.drop(lane, why),
        }
    }
    let jobs = if runs(&jobs).nth(1).is_some() { by_sa(&jobs) } else { jobs };
    finish(core, batch, jobs);
}

/// Stage 3: verify and decrypt, a call to the engine for each SA's run of packets. Packets that aren't authentic are
/// dropped, and their numbers are lost on nobody: the window hasn't seen them.
fn open(core: &CoreCx<'_>, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    // An empty packet isn't opened, and whatever has been admitted isn't empty.
    let mut by_lane: [&mut [u8]; BURST] = std::array::from_fn(|_| Default::default());
    for (packet, slot) in batch.packets_mut().iter_mut().zip(&mut by_lane) {
        let esp = packet.headers().esp_range();
        *slot = packet.data_mut().get_mut(esp).unwrap_or_default();
    }
    let opened = open_runs(jobs, &mut by_lane);
    if opened.len() == jobs.len() {
        return;
    }
    jobs.retain(|job| {
        let authentic = opened.contains(job.lane);
        if !authentic {
            job.sa.counters(core.id).auth_failed.add(1);
            batch.drop(job.lane, DropReason::AuthFailed);
        }
        authentic
    });
}

/// Opens what lies in the jobs' lanes; gives the lanes of authentic packets.
fn open_runs(jobs: &[Job<'_>], by_lane: &mut [&mut [u8]; BURST]) -> Lanes {
    let mut opened = Lanes::NONE;
    // While one SA's packets are decrypted, the keys of the next two come in: a short packet alone takes less time than
    // memory does.
    let mut ahead = runs(jobs);
    let mut prefetch_next = || {
        if let Some(next) = ahead.next().and_then(|run| run.first()) {
            next.sa.opener.prefetch();
        }
    };
    (0..KEYS_AHEAD).for_each(|_| prefetch_next());
    for run in runs(jobs) {
        prefetch_next();
        let Some(sa) = run.first().map(|job| job.sa) else {
            continue;
        };
        let mut work = ArrayVec::<OpenJob<'_>, BURST>::new();
        for job in run {
            work.push(OpenJob::new(std::mem::take(&mut by_lane[job.lane.index()]), job.seq.high()));
        }
        sa.opener.open_burst(&mut work);
        for (job, work) in run.iter().zip(&work) {
            if work.opened() {
                opened.insert(job.lane);
            }
        }
    }
    opened
}

/// Stage 4: the window takes the numbers of authentic packets. A number that came twice in one burst falls out here.
fn commit(core: &mut CoreCx<'_>, batch: &mut Batch<'_>, jobs: &mut Jobs<'_>) {
    let mut refused = Lanes::NONE;
    for run in runs(jobs) {
        let Some(sa) = run.first().map(|job| job.sa) else {
            continue;
        };
        let seqs: ArrayVec<SeqNo, BURST> = run.iter().map(|job| job.seq).collect();
        sa.window.commit_run(&seqs, |index, why| {
            if let Some(job) = run.get(index) {
                refused.insert(job.lane);
                batch.drop(job.lane, replayed(core, sa, why));
            }
        });
        let counters = sa.counters(core.id);
        let (mut packets, mut octets, mut newest) = (0, 0, None);
        for job in run.iter().filter(|job| !refused.contains(job.lane)) {
            packets += 1;
            octets += u64::from(job.payload_len);
            newest = newest.filter(|newest: &&Job<'_>| newest.seq > job.seq).or(Some(job));
        }
        counters.packets.add(packets);
        counters.octets.add(octets);
        if let Some(newest) = newest {
            sa.raise_mark(newest.seq);
            tell(core, batch, newest);
        }
    }
    if !refused.is_empty() {
        jobs.retain(|job| !refused.contains(job.lane));
    }
}

/// Tells the control thread what the newest of an SA's authentic packets shows.
fn tell(core: &mut CoreCx<'_>, batch: &Batch<'_>, job: &Job<'_>) {
    let at = core.now;
    // Made only where there is something to tell: the key isn't among what a packet needs of its SA.
    let sa = || SaRef { key: job.sa.key, id: job.sa.id };
    if job.sa.note_use() {
        core.tell(Event::FirstPacket { sa: sa(), at });
    }
    if let Some((limit, unit)) = job.sa.note_progress(job.seq) {
        core.tell(Event::LimitReached { sa: sa(), limit, unit, at });
    }
    // A packet that another one overtook may come from where the peer was before (RFC 7296 2.23).
    if job.sa.encap == Encap::Udp && job.sa.window.highest() == Some(job.seq) {
        let packet = batch.packet(job.lane);
        let (headers, frame) = (packet.headers(), packet.data());
        let port = headers.udp_ports(frame).map(|(src, _)| src);
        if let Some(address) = headers.src(frame)
            && job.sa.note_source(address, port)
            && !core.tell(Event::SourceChanged { sa: sa(), address, port, at })
        {
            job.sa.forget_source();
        }
    }
}
