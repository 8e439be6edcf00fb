//! What differs between two configurations, and which of it a running nf-core can't take over.

use super::{Config, Control, Crypto, Eal, Notify, Port, Reassembly, Sad};
use crate::metrics::MetricsConfig;

/// What differs beside what a running nf-core can take over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Differences {
    /// Fields that need a restart.
    pub fixed: Vec<&'static str>,
    /// Tables of which nf-core itself uses nothing: the agent's.
    pub agents: Vec<&'static str>,
}

/// Of fields, each with whether it is the same, those that aren't.
pub fn changed(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect()
}

impl Config {
    /// Compares two configurations.
    pub fn differences(&self, new: &Config) -> Differences {
        // All fields by name: whoever adds one says here what becomes of it.
        let Config {
            eal: Eal { args, cores, mbufs, idle, spread },
            control: Control { socket, access, audit_file },
            metrics: MetricsConfig { listen, per_sa },
            notify:
                Notify { inv_spi_interval_s: _, budget_per_min: _, max_flows, input_interface: _, syslog: _, journald },
            recovery,
            agent,
            crypto: Crypto { engine, device },
            sad: Sad { capacity, deleted_memory_s: _, larval },
            reassembly: Reassembly { enabled, max_flows: reassembled, timeout_ms },
            ports,
            local: _,
            routes: _,
            neighbours: _,
            peers,
            sas: _,
            policies: _,
            plugins: _,
            events: _,
            snapshot: _,
            state,
        } = self;
        let mut fixed = changed(&[
            ("[eal] args", *args == new.eal.args),
            ("[eal] cores", *cores == new.eal.cores),
            ("[eal] mbufs", *mbufs == new.eal.mbufs),
            ("[eal] idle", *idle == new.eal.idle),
            ("[eal] spread", *spread == new.eal.spread),
            ("[control] socket", *socket == new.control.socket),
            ("[control] group", access.group == new.control.access.group),
            ("[control] mode", access.mode == new.control.access.mode),
            ("[control] admins", access.admins == new.control.access.admins),
            ("[control] audit_file", *audit_file == new.control.audit_file),
            ("[metrics] listen", *listen == new.metrics.listen),
            ("[metrics] per_sa", *per_sa == new.metrics.per_sa),
            ("[notify] max_flows", *max_flows == new.notify.max_flows),
            ("[notify] journald", *journald == new.notify.journald),
            ("[crypto] engine", *engine == new.crypto.engine),
            ("[crypto] device", *device == new.crypto.device),
            ("[sad] capacity", *capacity == new.sad.capacity),
            ("[sad] larval_spi_packets", larval.spi_packets == new.sad.larval.spi_packets),
            ("[sad] larval_packets", larval.packets == new.sad.larval.packets),
            ("[sad] larval_octets", larval.octets == new.sad.larval.octets),
            ("[sad] larval_age_ms", larval.age == new.sad.larval.age),
            ("[reassembly] enabled", *enabled == new.reassembly.enabled),
            ("[reassembly] max_flows", *reassembled == new.reassembly.max_flows),
            ("[reassembly] timeout_ms", *timeout_ms == new.reassembly.timeout_ms),
            ("[state]", *state == new.state),
        ]);
        fixed.extend(ports_differ(ports, &new.ports));
        let agents = changed(&[
            ("[recovery]", *recovery == new.recovery),
            ("[agent]", *agent == new.agent),
            ("[[peer]]", *peers == new.peers),
        ]);
        Differences { fixed, agents }
    }
}

fn ports_differ(old: &[Port], new: &[Port]) -> Vec<&'static str> {
    type Same = fn(&Port, &Port) -> bool;
    if old.len() != new.len() {
        return vec!["[[port]]"];
    }
    let differ = |field: Same| old.iter().zip(new).any(|(old, new)| !field(old, new));
    let checks: [(&'static str, Same); 7] = [
        ("[[port]] name", |old, new| old.name == new.name),
        ("[[port]] role", |old, new| old.role == new.role),
        ("[[port]] next_hop_mac", |old, new| old.next_hop_mac == new.next_hop_mac),
        ("[[port]] rx_queues", |old, new| old.rx_queues == new.rx_queues),
        ("[[port]] addresses", |old, new| old.addresses == new.addresses),
        ("[[port]] for", |old, new| old.stands_for == new.stands_for),
        ("[[port]] mtu", |old, new| old.mtu == new.mtu),
    ];
    checks.into_iter().filter(|(_, same)| differ(*same)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn differences(old: &str, new: &str) -> (Vec<&'static str>, Vec<&'static str>) {
        let parse = |text: &str| Config::parse(text, Path::new("nf.toml")).unwrap();
        let Differences { fixed, agents } = parse(old).differences(&parse(new));
        (fixed, agents)
    }

    #[test]
    fn fields_that_need_a_restart_are_named() {
        let port = |mtu: u16| format!("[[port]]\nname = 'a'\nrole = 'protected'\nmtu = {mtu}\n");
        let old = format!("[eal]\ncores = [0]\n{}", port(1500));
        let new = format!("[eal]\ncores = [0, 1]\nidle = 'sleep'\n[sad]\nlarval_age_ms = 1\n{}", port(1400));
        assert_eq!(differences(&old, &new).0, ["[eal] cores", "[eal] idle", "[sad] larval_age_ms", "[[port]] mtu"]);
        assert_eq!(differences(&port(1500), "").0, ["[[port]]"]);
        assert_eq!(differences(&old, &old), (vec![], vec![]));
    }

    #[test]
    fn what_can_change_and_what_the_agent_reads_is_told_apart() {
        let new = "[notify]\ninv_spi_interval_s = 5\nsyslog = 'unix:/dev/log'\n[snapshot]\nkeep = 5\n[sad]\ndeleted_memory_s = 5\n[[local]]\naddress = '10.0.0.1'\n\
                   [recovery]\ninvalid_spi_recovery = true\n";
        assert_eq!(differences("", new), (vec![], vec!["[recovery]"]));
    }
}
