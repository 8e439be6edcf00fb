//! The packets of a burst by their SA.

use arrayvec::ArrayVec;

use crate::lanes::{BURST, Lane, Lanes};
use crate::sa::inbound::Sa;
use crate::types::SeqNo;

/// Packets of one SA. In their order of arrival, as lanes are.
#[derive(Clone, Copy)]
pub(super) struct Run<'s> {
    pub(super) sa: &'s Sa,
    pub(super) lanes: Lanes,
}

/// Places in which SAs are looked for: as many as a burst may have SAs.
const PLACES: usize = BURST;

/// A burst's packets by their SA. Two runs may be of one SA, and then the packets of the first came before those of the
/// second: an SA that takes the place of another makes that one begin a new run, which costs a call to the engine and is
/// cheaper than to sort.
pub(super) struct Runs<'s> {
    runs: ArrayVec<Run<'s>, BURST>,
    /// The newest run of an SA, by a few bits of the SA's address.
    places: [u8; PLACES],
}

impl<'s> Runs<'s> {
    pub(super) fn new() -> Runs<'s> {
        Runs { runs: ArrayVec::new(), places: [0; PLACES] }
    }

    /// Adds packets that came after all that are in.
    #[inline]
    pub(super) fn add(&mut self, sa: &'s Sa, lanes: Lanes) {
        let address = std::ptr::from_ref(sa).addr() / align_of::<Sa>();
        let place = &mut self.places[(address ^ (address / PLACES)) % PLACES];
        match self.runs.get_mut(usize::from(*place)) {
            Some(run) if std::ptr::eq(run.sa, sa) => run.lanes |= lanes,
            _ => {
                *place = self.runs.len() as u8;
                // Each run has a packet of its own, so there is room.
                let _ = self.runs.try_push(Run { sa, lanes });
            }
        }
    }

    #[inline]
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Run<'s>> {
        self.runs.iter()
    }

    /// Those that have packets left.
    #[inline]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Run<'s>> {
        self.runs.iter_mut().filter(|run| !run.lanes.is_empty())
    }

    /// A run, if it has packets left.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Run<'s>> {
        self.runs.get_mut(index).filter(|run| !run.lanes.is_empty())
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Asks for the key with which a run's first packet is opened.
    #[inline]
    pub(super) fn prefetch_key(&self, index: usize, admitted: &AdmittedByLane) {
        if let Some(run) = self.runs.get(index)
            && let Some(first) = run.lanes.into_iter().next()
        {
            run.sa.opener.prefetch(admitted.of(first).payload_len as usize);
        }
    }

    /// All packets.
    #[inline]
    pub(super) fn lanes(&self) -> Lanes {
        self.runs.iter().fold(Lanes::NONE, |all, run| all | run.lanes)
    }
}

/// What is known of a packet that has been admitted.
#[derive(Clone, Copy, Default)]
pub(super) struct Admitted {
    pub(super) seq: SeqNo,
    /// Octets of the ESP payload.
    pub(super) payload_len: u32,
}

/// Of each packet of a burst, once it is admitted.
pub(super) struct AdmittedByLane([Admitted; BURST]);

impl AdmittedByLane {
    pub(super) fn new() -> AdmittedByLane {
        AdmittedByLane([Admitted::default(); BURST])
    }

    #[inline]
    pub(super) fn of(&self, lane: Lane) -> Admitted {
        self.0[lane.index()]
    }

    #[inline]
    pub(super) fn set(&mut self, lane: Lane, admitted: Admitted) {
        self.0[lane.index()] = admitted;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Portable;
    use crate::sa::spec::SaSpec;

    fn sa(id: u32) -> Sa {
        let spec: SaSpec = serde_json::from_value(serde_json::json!({
            "spi": 0x1000 + id, "src": "10.1.1.1", "dst": "10.10.1.2", "mode": "tunnel", "alg": "aes-gcm-16",
            "key": "00".repeat(20),
        }))
        .unwrap();
        Sa::new(&spec.validate().unwrap(), id, &Portable, 1).unwrap()
    }

    /// More of them than there are places, so that they take each other's.
    static SAS: LazyLock<Vec<Sa>> = LazyLock::new(|| (0..100).map(sa).collect());

    #[test]
    fn packets_of_one_sa_are_one_run() {
        let mut runs = Runs::new();
        (0..BURST).filter_map(Lane::new).for_each(|lane| runs.add(&SAS[0], [lane].into_iter().collect()));
        assert_eq!((runs.len(), runs.lanes()), (1, Lanes::first_n(BURST)));
    }

    proptest! {
        #[test]
        fn each_packet_is_in_one_run_of_its_sa_and_in_order(order in prop::collection::vec(0..100usize, 0..=BURST)) {
            let mut runs = Runs::new();
            for (index, sa) in order.iter().enumerate() {
                runs.add(&SAS[*sa], Lane::new(index).into_iter().collect());
            }
            let mut by_sa = vec![Vec::new(); SAS.len()];
            for run in runs.iter() {
                by_sa[run.sa.id as usize].extend(run.lanes.map(Lane::index));
            }
            for (sa, lanes) in by_sa.iter().enumerate() {
                let expected: Vec<usize> = (0..order.len()).filter(|index| order[*index] == sa).collect();
                prop_assert_eq!(lanes, &expected);
            }
        }
    }
}
