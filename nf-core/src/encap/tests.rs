//! The end of the sequence numbers, which no test reaches by sending packets.

use std::path::Path;

use crate::batch::{Batch, Fate};
use crate::config::{Config, PortRole};
use crate::control::controller::{Controller, InstalledSa};
use crate::control::proto::{EventKind, EventReport};
use crate::control::subscribers::Next;
use crate::core::Core;
use crate::drop::DropReason;
use crate::net::NetPort;
use crate::notify::FanOut;
use crate::packet::Packet;
use crate::plugin::Registry;
use crate::sa::lifetime::{Limit, Unit};
use crate::types::{Nanos, PortIndex};
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv4;

const SA: &str = "[[sa]]\nspi = 0x1000\ndirection = \"out\"\nsrc = \"10.10.1.2\"\ndst = \"10.1.1.1\"\n\
                  mode = \"tunnel\"\nalg = \"aes-gcm-16\"\n";

fn gateway(esn: bool) -> (Controller, Core) {
    let text = format!("{SA}key = \"{}\"\nesn = {esn}\n", "5a".repeat(20));
    let config = Config::parse(&text, Path::new("nf.toml")).unwrap();
    let port = |role| (String::new(), NetPort::new(role, MacAddr([2; 6]), Some(MacAddr([4; 6]))));
    let ports = [PortRole::Unprotected, PortRole::Protected].map(port).into();
    let (controller, mut cores) = Controller::new(&config, Registry::builtin(), ports, 1, FanOut::default()).unwrap();
    (controller, cores.remove(0))
}

/// Sends that many packets; the numbers that they leave with, and what became of the others.
fn send(core: &mut Core, count: usize) -> (Vec<u32>, Vec<Fate>) {
    let mut packet =
        vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 253, 0, 0, 172, 16, 0, 9, 192, 168, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    ipv4::refresh_checksum(&mut packet);
    let frame = [&[2; 6][..], &[6; 6], &[8, 0], &packet].concat();
    let mut buffers = vec![[&[0; 128][..], &frame, &[0; 128]].concat(); count];
    let mut batch = Batch::default();
    for buffer in &mut buffers {
        batch.push(Packet::new(buffer, 128..128 + frame.len(), PortIndex(1)).unwrap()).unwrap();
    }
    core.process(Nanos(1), &mut batch);
    let (mut numbers, mut others) = (Vec::new(), Vec::new());
    for lane in batch.lanes() {
        match batch.fate(lane) {
            Fate::Send(_) => numbers.push(crate::wire::parse(batch.packet(lane).data()).unwrap().seq_low().unwrap()),
            other => others.push(other),
        }
    }
    (numbers, others)
}

#[test]
fn the_last_number_is_used_and_none_after_it() {
    let (mut controller, mut core) = gateway(false);
    let (_, events) = controller.subscribe(vec![EventKind::SaLifetime]);
    let Some(InstalledSa::Out(sa)) = controller.sas().next().map(|stored| stored.sa.clone()) else {
        panic!("it is outbound");
    };
    sa.skip_to(u64::from(u32::MAX) - 2);
    let (numbers, others) = send(&mut core, 5);
    assert_eq!(numbers, [u32::MAX - 2, u32::MAX - 1, u32::MAX]);
    assert_eq!(others, [Fate::Dropped(DropReason::OutSequence); 2]);
    // From here on the SA is over, and the control thread takes it out.
    assert_eq!(send(&mut core, 3), (vec![], vec![Fate::Dropped(DropReason::OutInvalidSaV4); 3]));
    controller.tick(Nanos(2));
    let Next::Event(EventReport::SaLifetime { limit, unit, .. }) = events.next(std::time::Duration::ZERO) else {
        panic!("its end is an event");
    };
    assert_eq!((limit, unit, controller.sas().len()), (Limit::Hard, Unit::Sequence, 0));
    core.poll_commands();
    assert_eq!(send(&mut core, 1), (vec![], vec![Fate::Dropped(DropReason::ClearOutput)]));
}

#[test]
fn with_esn_the_low_half_begins_again() {
    let (controller, mut core) = gateway(true);
    let Some(InstalledSa::Out(sa)) = controller.sas().next().map(|stored| stored.sa.clone()) else {
        panic!("it is outbound");
    };
    sa.skip_to(u64::from(u32::MAX));
    assert_eq!(send(&mut core, 3), (vec![u32::MAX, 0, 1], vec![]));
}
