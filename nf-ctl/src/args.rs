//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nf_core::config::FilterSpec;
use nf_core::control::proto::EventKind;
use nf_core::types::Spi;
use serde_json::{Map, Value};

use crate::Error;

/// Operates nf-core: shows counters, adds and removes SAs, binds plugins; and is its agent, which speaks IKE for it.
///
/// Exit codes: 0 done, 1 nf-core or the agent refuses, 2 the command line is wrong, 3 nf-core or the agent isn't there or
/// a file can't be read.
#[derive(Parser)]
#[command(version, infer_subcommands = true)]
pub(crate) struct Cli {
    /// The control socket of nf-core.
    #[arg(long, global = true, env = "NF_CTL_SOCKET", default_value = "/run/nf-core/nf-core.sock")]
    pub(crate) socket: PathBuf,
    /// The control socket of the agent.
    #[arg(long, global = true, env = "NF_CTL_AGENT_SOCKET", default_value = "/run/nf-core/nf-agent.sock")]
    pub(crate) agent_socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Take counters from a file that `nf-core replay --stats-json` wrote, instead of from nf-core.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) stats_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const SHOW_COMMANDS: &str = "\
show platform hardware qfp active statistics drop [clear]
show platform hardware qfp active feature ipsec datapath drops [all] [clear]
show crypto isakmp sa | show crypto ikev2 sa | show crypto ipsec sa [detail]
show audit [--limit N] | show counters | show interfaces | show invalid-spi [--limit N] | show recovery [--limit N]
show runtime | show sa | show status | show tech-support";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show something; words may be abbreviated, and `| include PATTERN`, `| exclude PATTERN` and `| count PATTERN`
    /// work as on IOS.
    #[command(after_help = SHOW_COMMANDS)]
    Show {
        /// What to show.
        #[arg(required = true)]
        words: Vec<String>,
        /// At most so many flows with invalid SPIs, decisions of recovery, or changes.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Explain a drop reason: what it means, its likely cause, and what to do. Needs no nf-core.
    Explain {
        /// Its index or its name, or a part of the name; all reasons in short if none is named.
        reason: Option<String>,
    },
    /// Add, delete, list and show SAs. No key is ever shown.
    Sa {
        #[command(subcommand)]
        command: SaCommand,
    },
    /// Have nf-core and its agent take over what has changed in their nf.toml: all of it, or nothing. An agent that doesn't run
    /// isn't waited for.
    Reload {
        /// Only this one.
        program: Option<Reloads>,
    },
    /// Watch nf-core on a screen: rates by core and SA, drops, stuck peers, recovery. Keys: q quit, p pause, s sort.
    Top,
    /// Print a script by which a shell completes nf-ctl's command line.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of nf-ctl and nf-core.
    Man {
        /// The directory; it has to be there.
        directory: PathBuf,
    },
    /// Run the agent: it speaks IKE for nf-core, and recovers peers that are black-holed. Ends by SIGTERM or Ctrl-C.
    Agent {
        /// The configuration, which is nf-core's as well.
        #[arg(long)]
        config: PathBuf,
    },
    /// Recover a peer now: renew its CHILD_SAs over its IKE SA, or start a new one, whatever the setting and the back-off.
    Recover {
        /// The peer's name in nf.toml.
        peer: String,
    },
    /// Operate IKE SAs.
    Ike {
        #[command(subcommand)]
        command: IkeCommand,
    },
    /// Print events as they come: invalid SPIs, first packets on SAs, changes of address. Ends with nf-core, or by
    /// Ctrl-C.
    Monitor {
        /// The kinds of events; all if none is named.
        kinds: Vec<EventKind>,
        /// End after so many events.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Mirror SAs that an IKE daemon negotiates into nf-core. Runs until it is ended, and outlives nf-core.
    Mirror {
        #[command(subcommand)]
        source: MirrorSource,
    },
    /// List and test the hooks of nf.toml (`[[event]]`), and show what they have done.
    Event {
        #[command(subcommand)]
        command: EventCommand,
    },
    /// List, bind and unbind plugins.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
}

/// Who reloads its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Reloads {
    /// nf-core.
    NfCore,
    /// Its agent.
    Agent,
}

#[derive(Subcommand)]
pub(crate) enum MirrorSource {
    /// From the kernel's XFRM, whichever daemon installs them there: SAs of ESP with their policies. Needs CAP_NET_ADMIN.
    Xfrm {
        /// An address at which SAs end; may be given several times. Without any: every address of this host.
        #[arg(long, value_name = "ADDRESS")]
        local: Vec<IpAddr>,
        /// Seconds between two comparisons of everything: reserved SPIs are seen only then.
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
        resync: u64,
    },
}

#[derive(Subcommand)]
pub(crate) enum IkeCommand {
    /// Start an IKE SA with a peer that has none.
    Initiate {
        /// The peer's name in nf.toml.
        peer: String,
    },
    /// Delete the IKE SAs with a peer, and their CHILD_SAs.
    Delete {
        /// The peer's name in nf.toml.
        peer: String,
    },
    /// Ask a peer for a sign of life.
    Dpd {
        /// The peer's name in nf.toml.
        peer: String,
    },
    /// Show the agent, its peers and their SAs.
    Status {
        /// A peer's name; all if none is named.
        peer: Option<String>,
    },
}

#[derive(Subcommand)]
pub(crate) enum SaCommand {
    /// Add an SA, from a file or from options. It decapsulates on every core when the command ends.
    Add(Box<SaAdd>),
    /// Delete an SA.
    Del(SaNameArgs),
    /// Reserve an SPI for an SA that is on its way, and print it. Packets on it are held until `sa add`.
    Reserve {
        /// The outer destination: one of nf-core's addresses.
        #[arg(long)]
        dst: IpAddr,
        /// The outer source, if the peer's address is known.
        #[arg(long)]
        src: Option<IpAddr>,
        /// The SPI; without it, one that is in use nowhere.
        #[arg(long)]
        spi: Option<Spi>,
        /// Seconds after which it is free again.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        lifetime: u64,
    },
    /// Give a reserved SPI back.
    Release(SaNameArgs),
    /// List all SAs, reserved SPIs included.
    List,
    /// Show one SA.
    Show(SaNameArgs),
}

#[derive(Args)]
pub(crate) struct SaNameArgs {
    /// The SPI, decimal or with 0x in hex.
    pub(crate) spi: Spi,
    /// The outer destination, where several SAs have the SPI.
    #[arg(long)]
    pub(crate) dst: Option<IpAddr>,
    /// The outer source, where several SAs have the SPI.
    #[arg(long)]
    pub(crate) src: Option<IpAddr>,
}

/// The fields of `[[sa]]` in nf.toml. Keys come from files, for a command line is seen by every user of the host.
#[derive(Args)]
pub(crate) struct SaAdd {
    /// A file with one SA or several, as in nf.toml or as JSON; `-` for standard input.
    #[arg(long, conflicts_with_all = ["spi", "src", "dst", "mode", "alg", "key_file", "auth", "auth_key_file", "peer"])]
    pub(crate) file: Option<PathBuf>,

    #[arg(long, required_unless_present = "file")]
    pub(crate) spi: Option<String>,
    /// `in`: packets come in on it; `out`: they go out on it.
    #[arg(long, default_value = "in")]
    pub(crate) direction: String,
    #[arg(long, required_unless_present = "file")]
    pub(crate) src: Option<String>,
    #[arg(long, required_unless_present = "file")]
    pub(crate) dst: Option<String>,
    #[arg(long, required_unless_present = "file")]
    pub(crate) mode: Option<String>,
    #[arg(long, required_unless_present = "file")]
    pub(crate) alg: Option<String>,
    /// A file with the key in hex, which only its owner may access.
    #[arg(long)]
    pub(crate) key_file: Option<PathBuf>,
    #[arg(long)]
    pub(crate) auth: Option<String>,
    /// A file with the integrity key in hex, which only its owner may access.
    #[arg(long)]
    pub(crate) auth_key_file: Option<PathBuf>,
    #[arg(long)]
    pub(crate) esn: bool,
    #[arg(long, default_value_t = 64)]
    pub(crate) replay_window: u32,
    #[arg(long, default_value = "none")]
    pub(crate) encap: String,
    /// Outbound, in UDP: the peer's port, 4500 if it isn't given.
    #[arg(long)]
    pub(crate) peer_port: Option<u16>,
    /// Outbound tunnels in UDP: the SPI of the inbound SA whose packets show where the peer is.
    #[arg(long)]
    pub(crate) follows: Option<String>,
    /// Outbound: the outer header's DF bit, `copy`, `set` or `clear`.
    #[arg(long)]
    pub(crate) df: Option<String>,
    /// Outbound: octets of the largest outer packet.
    #[arg(long)]
    pub(crate) path_mtu: Option<u16>,
    /// An inner source network; may be given several times.
    #[arg(long)]
    pub(crate) selector_src: Vec<String>,
    /// An inner destination network; may be given several times.
    #[arg(long)]
    pub(crate) selector_dst: Vec<String>,
    /// The peer's name, for displays and events.
    #[arg(long)]
    pub(crate) peer: Option<String>,
}

/// Refuses a key on the command line, before clap could repeat it in a message.
pub(crate) fn refuse_keys(args: &[OsString]) -> Result<(), Error> {
    let is_key = |arg: &OsString| {
        let option = arg.to_str().and_then(|arg| arg.split('=').next());
        matches!(option, Some("--key" | "--auth-key"))
    };
    if !args.iter().any(is_key) {
        return Ok(());
    }
    Err(Error::Usage(
        "a key on the command line is seen by every user of the host, in ps and in the shell's history: \
         use --key-file and --auth-key-file, or --file - for standard input, and a new key, for this one is known now"
            .to_owned(),
    ))
}

#[derive(Subcommand)]
pub(crate) enum EventCommand {
    /// List the hooks.
    List,
    /// Show what hooks have done, the latest first.
    History {
        /// At most so many runs.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Have a hook do what it does, with an event that is made up, and wait for it.
    Test {
        /// The hook.
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// List plugins, their instances and bindings.
    List,
    /// Bind an instance of a plugin to a gate; the instance is made if there is none of that name.
    Bind {
        /// The plugin.
        plugin: String,
        /// The instance.
        #[arg(long)]
        instance: String,
        /// The gate: ingress, esp-input, post-decap, egress or drop.
        #[arg(long)]
        gate: String,
        /// Which packets, such as src=10.0.0.0/8,protocol=udp,dst_port=4500,spi=0x100-0x1ff.
        #[arg(long)]
        filter: Option<String>,
        /// Lower ones are run first.
        #[arg(long, default_value_t = 100)]
        priority: u16,
        /// A setting of a new instance, such as file=/tmp/drops.pcapng; may be given several times.
        #[arg(long, value_name = "NAME=VALUE")]
        set: Vec<String>,
    },
    /// Unbind an instance from a gate, or from all.
    Unbind {
        /// The instance.
        instance: String,
        /// The gate.
        #[arg(long)]
        gate: Option<String>,
    },
}

/// A filter from `name=value,name=value`.
pub(crate) fn filter(text: &str) -> Result<FilterSpec, Error> {
    let mut filter = FilterSpec::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--filter: `{part}` isn't of the form name=value")))?;
        let place = match name {
            "src" => &mut filter.src,
            "dst" => &mut filter.dst,
            "protocol" => &mut filter.protocol,
            "src_port" => &mut filter.src_port,
            "dst_port" => &mut filter.dst_port,
            "spi" => &mut filter.spi,
            _ => {
                let known = "src, dst, protocol, src_port, dst_port or spi";
                return Err(Error::Usage(format!("--filter: there is no condition `{name}`; use {known}")));
            }
        };
        *place = Some(value.to_owned());
    }
    filter.validate()?;
    Ok(filter)
}

/// A plugin's settings from `name=value` each. What reads as a number or a truth value is one.
pub(crate) fn settings(set: &[String]) -> Result<Value, Error> {
    if set.is_empty() {
        return Ok(Value::Null);
    }
    let mut table = Map::new();
    for part in set {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--set: `{part}` isn't of the form name=value")))?;
        let typed = serde_json::from_str(value).ok().filter(|value: &Value| value.is_number() || value.is_boolean());
        table.insert(name.to_owned(), typed.unwrap_or_else(|| value.into()));
    }
    Ok(Value::Object(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn keys_are_refused_in_both_forms_and_key_files_are_not() {
        let refused = |arg: &str| refuse_keys(&["sa".into(), "add".into(), arg.into(), "a1b2".into()]);
        for arg in ["--key", "--key=a1b2", "--auth-key", "--auth-key=a1b2"] {
            let error = refused(arg).unwrap_err().to_string();
            assert!(error.contains("use --key-file") && !error.contains("a1b2"), "{error}");
        }
        assert!(refused("--key-file").is_ok() && refused("--auth-key-file=a").is_ok());
    }

    #[test]
    fn filters_and_settings_are_read() {
        let filter = filter("src=10.0.0.0/8,spi=0x100-0x1ff").unwrap();
        assert_eq!((filter.src.as_deref(), filter.spi.as_deref()), (Some("10.0.0.0/8"), Some("0x100-0x1ff")));
        assert!(super::filter("colour=red").unwrap_err().to_string().contains("no condition `colour`"));
        assert!(super::filter("src=10.0.0.1/8").unwrap_err().to_string().contains("the network is 10.0.0.0/8"));
        let table = settings(&["file=/tmp/x".into(), "packets=5".into(), "on=true".into()]).unwrap();
        assert_eq!(table, serde_json::json!({"file": "/tmp/x", "packets": 5, "on": true}));
        assert!(settings(&["file".into()]).is_err());
    }
}
