//! The text format of OpenMetrics 1.0, and the one table of what is exposed.

use std::fmt::Write;

/// What kind of number a family has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows, and begins at zero with the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Texts, as labels of the number 1.
    Info,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
        }
    }

    /// What a sample's name has behind the family's.
    const fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        }
    }
}

macro_rules! families {
    ($($variant:ident $name:literal $kind:ident [$($label:literal)*] $help:literal;)*) => {
        /// A metric family.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Family {
            $(#[doc = $help] $variant,)*
        }

        impl Family {
            /// All of them.
            pub const ALL: &'static [Family] = &[$(Family::$variant,)*];

            /// The name, without what samples have behind it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Family::$variant => $name,)*
                }
            }

            /// The kind.
            pub const fn kind(self) -> Kind {
                match self {
                    $(Family::$variant => Kind::$kind,)*
                }
            }

            /// The names of the labels of each sample.
            pub const fn labels(self) -> &'static [&'static str] {
                match self {
                    $(Family::$variant => &[$($label),*],)*
                }
            }

            /// What the number is.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Family::$variant => $help,)*
                }
            }
        }
    };
}

families! {
    Build "nf_core_build" Info ["version" "dpdk" "engine"] "The release, and what it runs on.";
    Uptime "nf_core_uptime_seconds" Gauge [] "Seconds since nf-core started.";
    Received "nf_core_received_packets" Counter ["core"] "Packets received.";
    ReceivedOctets "nf_core_received_octets" Counter ["core"] "Octets of received frames, without FCS.";
    Sent "nf_core_sent_packets" Counter ["core"] "Packets sent on.";
    SentOctets "nf_core_sent_octets" Counter ["core"] "Octets of sent frames, without FCS.";
    Consumed "nf_core_consumed_packets" Counter ["cause"] "Packets that ended here by design.";
    CoreDropped "nf_core_core_dropped_packets" Counter ["core"] "Packets dropped, for whatever reason.";
    Dropped "nf_core_dropped_packets" Counter ["index" "reason"] "Packets dropped, by drop reason.";
    DroppedOctets "nf_core_dropped_octets" Counter ["index" "reason"] "Octets of dropped frames, without FCS, by drop reason.";
    EventsLost "nf_core_events_lost" Counter ["core"] "Events that a core could not tell the control thread.";
    InFlight "nf_core_in_flight_packets" Gauge ["core"] "Packets that the crypto device has.";
    Polls "nf_core_polls" Counter ["core"] "Rounds of a core over its receive queues.";
    EmptyPolls "nf_core_empty_polls" Counter ["core"] "Rounds that found nothing.";
    StagePackets "nf_core_stage_packets" Counter ["core" "stage"] "Packets that a stage of the pipeline has worked on.";
    StageClocks "nf_core_stage_clocks" Counter ["core" "stage"] "Clocks of the time-stamp counter that a stage took.";
    PortUp "nf_core_port_up" Gauge ["port" "role"] "Whether the port's link is up.";
    PortReceived "nf_core_port_received_packets" Counter ["port" "role"] "Packets that the port received.";
    PortSent "nf_core_port_sent_packets" Counter ["port" "role"] "Packets that the port sent.";
    PortMissed "nf_core_port_missed_packets" Counter ["port" "role"] "Packets lost because no core took them in time.";
    PortNoBuffer "nf_core_port_no_buffer_packets" Counter ["port" "role"] "Packets lost because no buffer was free.";
    PortRxErrors "nf_core_port_receive_errors" Counter ["port" "role"] "Damaged packets.";
    PortTxErrors "nf_core_port_send_errors" Counter ["port" "role"] "Packets that could not be sent.";
    Sas "nf_core_sas" Gauge [] "SAs, reserved SPIs left out.";
    SaPackets "nf_core_sa_packets" Counter ["spi" "direction" "src" "dst" "peer"] "Authentic packets of an SA.";
    SaOctets "nf_core_sa_octets" Counter ["spi" "direction" "src" "dst" "peer"] "Octets of an SA's authentic packets.";
    SaReplays "nf_core_sa_replayed_packets" Counter ["spi" "direction" "src" "dst" "peer"] "Packets of an SA refused as duplicate or late.";
    SaAuthFailures "nf_core_sa_auth_failed_packets" Counter ["spi" "direction" "src" "dst" "peer"] "Packets of an SA with a wrong ICV.";
    SaRefused "nf_core_sa_refused_packets" Counter ["spi" "direction" "src" "dst" "peer"] "Authentic packets of an SA refused after decryption.";
    InvalidSpiPackets "nf_core_invalid_spi_packets" Counter [] "Packets on an SPI that no SA has.";
    InvalidSpiEvents "nf_core_invalid_spi_events" Counter [] "Events about such packets.";
    InvalidSpiMessages "nf_core_invalid_spi_messages" Counter [] "RECVD_PKT_INV_SPI messages printed.";
    InvalidSpiFlows "nf_core_invalid_spi_flows" Gauge ["class"] "Flows on unknown SPIs that are remembered: stuck ones are black-holed peers.";
    InvalidSpiEvicted "nf_core_invalid_spi_flows_evicted" Counter [] "Flows forgotten for newer ones.";
    AgentUp "nf_agent_up" Gauge [] "Whether nf-ctl agent answered.";
    AgentIkeSas "nf_agent_ike_sas" Gauge ["peer"] "IKE SAs with a peer.";
    AgentChildSas "nf_agent_child_sas" Gauge ["peer"] "CHILD_SAs with a peer.";
    RecoveryBudget "nf_recovery_budget_messages" Gauge [] "IKE messages that recoveries may send at this moment.";
    RecoveryDecisions "nf_recovery_decisions" Counter ["action"] "Decisions of recovery, by what was done.";
}

/// A text under construction. Samples of a family stand together: they are written family by family.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Writes a family: its values, each with the values of its labels.
    pub(super) fn family<const N: usize>(
        &mut self,
        family: Family,
        samples: impl IntoIterator<Item = ([String; N], f64)>,
    ) {
        let (name, kind) = (family.name(), family.kind());
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# TYPE {name} {}", kind.name());
        let _ = writeln!(self.0, "# HELP {name} {}", family.help());
        for (values, number) in samples {
            let _ = write!(self.0, "{name}{}", kind.suffix());
            for (place, (label, value)) in family.labels().iter().zip(&values).enumerate() {
                let _ = write!(self.0, "{}{label}=\"{}\"", if place == 0 { '{' } else { ',' }, escaped(value));
            }
            let _ = writeln!(self.0, "{} {number}", if values.is_empty() { "" } else { "}" });
        }
    }

    /// Writes a family of one number without labels.
    pub(super) fn single(&mut self, family: Family, number: f64) {
        self.family(family, [([], number)]);
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// A label's value: backslash, quote and newline are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_each_its_own() {
        for family in Family::ALL {
            let name = family.name();
            let valid = |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
            assert!(valid(name) && !name.ends_with("_total") && !name.ends_with("_info"), "{name}");
            assert!(family.labels().iter().all(|label| valid(label)), "{name}");
            assert!(family.help().ends_with('.') && !family.help().contains(['\\', '\n']), "{name}");
            assert_eq!(Family::ALL.iter().filter(|other| other.name() == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_family_is_a_type_a_help_and_its_samples() {
        let mut text = Exposition::default();
        text.family(Family::AgentIkeSas, [(["a\"b\\c\nd".to_owned()], 2.0), (["e".to_owned()], 0.5)]);
        text.family::<1>(Family::AgentChildSas, []);
        text.single(Family::InvalidSpiEvents, 18_446_744_073.0);
        let wanted = "\
# TYPE nf_agent_ike_sas gauge
# HELP nf_agent_ike_sas IKE SAs with a peer.
nf_agent_ike_sas{peer=\"a\\\"b\\\\c\\nd\"} 2
nf_agent_ike_sas{peer=\"e\"} 0.5
# TYPE nf_core_invalid_spi_events counter
# HELP nf_core_invalid_spi_events Events about such packets.
nf_core_invalid_spi_events_total 18446744073
# EOF
";
        assert_eq!(text.finish(), wanted);
    }
}
