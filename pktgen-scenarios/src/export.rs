//! A scenario for Pktgen-DPDK: captures, Lua scripts that send them once, and a shell script that runs all of it.
//!
//! Pktgen takes the frames of a port from one capture, which it reads at its start. So a scenario with requests to
//! nf-core is cut into a capture for each stretch between them, and the shell script makes the requests by nf-ctl before
//! it starts Pktgen for the next one.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::PcapError;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use serde_json::Value;

use crate::run::{Generated, RunError};

/// The longest frame without FCS that Pktgen sends out of a capture; it cuts off what is longer.
pub const LONGEST: usize = 1514;

/// How Pktgen is to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Options {
    /// Percent of the link's rate.
    pub rate: f64,
    /// The port towards nf-core's unprotected port.
    pub tx_port: u16,
    /// The port towards nf-core's protected port.
    pub rx_port: u16,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// The shell script.
    pub script: PathBuf,
    /// The Lua scripts, in their order.
    pub lua: Vec<PathBuf>,
    /// Frames that are longer than Pktgen can send.
    pub too_long: u64,
}

/// A stretch of frames without a request among them.
struct Stretch {
    name: String,
    /// Made before it.
    requests: Vec<Value>,
    /// Packets that these let go, while Pktgen doesn't run.
    unseen: u64,
    frames: u64,
    /// Packets that its frames make leave.
    sent: u64,
}

/// Writes the files beside those of the scenario.
///
/// # Errors
/// A file that can't be read or written.
pub fn export(scenario: &Generated, about: &str, dir: &Path, options: Options) -> Result<Exported, RunError> {
    let (stretches, too_long) = cut(scenario, dir)?;
    let mut lua = Vec::new();
    for stretch in &stretches {
        let path = dir.join(format!("{}.lua", stretch.name));
        std::fs::write(&path, lua_script(stretch, about, options)).map_err(RunError::io(&path))?;
        lua.push(path);
    }
    let script = dir.join(format!("{}.sh", scenario.name));
    let text = shell_script(scenario, &stretches, options);
    std::fs::write(&script, text).map_err(RunError::io(&script))?;
    Ok(Exported { script, lua, too_long })
}

/// Cuts the frames at the scenario's steps. Outputs are told apart by their times: that of their frame, or between two
/// frames if they leave by a request.
fn cut(scenario: &Generated, dir: &Path) -> Result<(Vec<Stretch>, u64), RunError> {
    let mut frames = Capture::open(&scenario.files.frames)?;
    let mut outputs = Capture::open(&scenario.files.outputs)?;
    let mut steps = scenario.steps.iter().peekable();
    let mut stretches = Vec::new();
    let (mut number, mut too_long) = (0, 0);
    while frames.peek().is_some() || steps.peek().is_some() {
        let mut requests = Vec::new();
        while let Some(step) = steps.next_if(|step| step.after == number) {
            requests.push(step.request.clone());
        }
        let until = steps.peek().map_or(u64::MAX, |step| step.after);
        // The capture of a scenario without steps is there already.
        let whole = scenario.steps.is_empty();
        let name = match whole {
            true => scenario.name.to_owned(),
            false => format!("{}.{}", scenario.name, stretches.len() + 1),
        };
        let path = dir.join(format!("{name}.pcap"));
        let mut writer = (!whole).then(|| create(&path)).transpose()?;
        let first = frames.peek().map_or(Duration::MAX, |frame| frame.timestamp);
        let mut stretch = Stretch { name, requests, unseen: outputs.skip_until(first)?, frames: 0, sent: 0 };
        let mut end = Duration::ZERO;
        while number < until
            && let Some(frame) = frames.next()?
        {
            too_long += u64::from(frame.data.len() > LONGEST);
            end = frame.timestamp;
            if let Some(writer) = &mut writer {
                writer.write_packet(&frame).map_err(|error| RunError::Capture { path: path.clone(), error })?;
            }
            stretch.frames += 1;
            number += 1;
        }
        stretch.sent = outputs.skip_until(end + Duration::from_nanos(1))?;
        if let Some(writer) = writer {
            writer.into_writer().flush().map_err(RunError::io(&path))?;
        }
        stretches.push(stretch);
    }
    Ok((stretches, too_long))
}

/// A capture that is read, with a look at the packet that comes next.
struct Capture {
    path: PathBuf,
    reader: PcapReader<BufReader<File>>,
    next: Option<PcapPacket<'static>>,
}

impl Capture {
    fn open(path: &Path) -> Result<Capture, RunError> {
        let error = |error| RunError::Capture { path: path.to_owned(), error };
        let file = File::open(path).map_err(|e| error(PcapError::IoError(e)))?;
        let reader = PcapReader::new(BufReader::new(file)).map_err(error)?;
        let mut capture = Capture { path: path.to_owned(), reader, next: None };
        capture.next()?;
        Ok(capture)
    }

    fn peek(&self) -> Option<&PcapPacket<'static>> {
        self.next.as_ref()
    }

    fn next(&mut self) -> Result<Option<PcapPacket<'static>>, RunError> {
        let packet = self.reader.next_packet().transpose();
        let packet = packet.map_err(|error| RunError::Capture { path: self.path.clone(), error })?;
        Ok(std::mem::replace(&mut self.next, packet.map(PcapPacket::into_owned)))
    }

    /// Passes over packets before a time; gives how many there were.
    fn skip_until(&mut self, time: Duration) -> Result<u64, RunError> {
        let mut count = 0;
        while self.peek().is_some_and(|packet| packet.timestamp < time) {
            self.next()?;
            count += 1;
        }
        Ok(count)
    }
}

fn create(path: &Path) -> Result<PcapWriter<BufWriter<File>>, RunError> {
    let file = BufWriter::new(File::create(path).map_err(RunError::io(path))?);
    let header = PcapHeader { snaplen: 1 << 18, ..PcapHeader::default() };
    PcapWriter::with_header(file, header).map_err(|error| RunError::Capture { path: path.to_owned(), error })
}

/// Sends a stretch once and counts what comes back.
fn lua_script(stretch: &Stretch, about: &str, options: Options) -> String {
    let Stretch { name, frames, sent, .. } = stretch;
    let Options { rate, tx_port, rx_port } = options;
    format!(
        r#"-- {name}: {about}
-- For Pktgen-DPDK, with -s {tx_port}:{name}.pcap: sends each frame of the capture once, as sent again it would be a replay.
package.path = package.path .. ";?.lua;test/?.lua;app/?.lua"
require "Pktgen"

local tx, rx = "{tx_port}", "{rx_port}"
local frames = {frames}  -- frames of the capture
local expected = {sent}  -- packets that must come out
local rate = {rate}  -- percent of the link's rate

local function sent()
  return pktgen.portStats(tx, "port")[tonumber(tx)].opackets
end

local function received()
  return pktgen.portStats(rx, "port")[tonumber(rx)].ipackets
end

pktgen.screen("off")
pktgen.stop("all")
pktgen.clr()
pktgen.delay(1000)
if frames > 0 then
  pktgen.set(tx, "rate", rate)
  pktgen.set(tx, "count", frames)
  pktgen.pcap(tx, "on")
  pktgen.start(tx)
  -- Until all are sent, 10 minutes at most.
  local waited = 0
  while sent() < frames and waited < 600 * 1000 do
    pktgen.delay(100)
    waited = waited + 100
  end
  pktgen.stop(tx)
end
-- The last ones are on their way (RFC 2544 23 d).
pktgen.delay(2000)

local passed = sent() == frames and received() == expected
local line = string.format("{name}: %s: sent %d of %d, received %d, expected %d\n",
  passed and "passed" or "FAILED", sent(), frames, received(), expected)
local file = io.open("{name}.result", "w")
if file then
  file:write(line)
  file:close()
end
print(line)
pktgen.quit()
"#
    )
}

/// Makes the requests and starts Pktgen, stretch by stretch.
fn shell_script(scenario: &Generated, stretches: &[Stretch], options: Options) -> String {
    let mut text = format!(
        r#"#!/bin/sh
# {}: plays the scenario by Pktgen-DPDK against a running nf-core whose nf.toml has the tables of the one beside this file.
# PKTGEN is Pktgen with EAL's arguments and --, and with -m; NF_CTL_SOCKET is nf-core's control socket. For example:
#   PKTGEN='pktgen -l 0-2 -n 4 -a 0000:03:00.0 -a 0000:03:00.1 -- -m 1.0,2.1' sh {}.sh
set -eu
cd "$(dirname "$0")"
umask 077
rm -f {}.*result
"#,
        scenario.name, scenario.name, scenario.name
    );
    for stretch in stretches {
        text.push('\n');
        for request in &stretch.requests {
            text += &nf_ctl(request);
        }
        if stretch.unseen > 0 {
            let _ = writeln!(text, "# {} packets leave here, while Pktgen doesn't run.", stretch.unseen);
        }
        if stretch.frames > 0 {
            let name = &stretch.name;
            let _ = writeln!(text, "$PKTGEN -P -s {}:{name}.pcap -f {name}.lua", options.tx_port);
            let _ = writeln!(text, "grep passed {name}.result");
        }
    }
    text
}

/// A request as a command.
fn nf_ctl(request: &Value) -> String {
    let text = |value: &Value, field: &str| match value.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let name = || {
        let addresses = ["dst", "src"].iter().filter(|field| request.get(*field).is_some());
        let addresses: Vec<String> = addresses.map(|field| format!(" --{field} {}", text(request, field))).collect();
        format!("{}{}", text(request, "spi"), addresses.concat())
    };
    match text(request, "op").as_str() {
        "sa-add" => {
            let sa = request.get("sa").cloned().unwrap_or_default();
            format!("nf-ctl sa add --file - <<'END'\n{sa}\nEND\n")
        }
        "sa-del" => format!("nf-ctl sa del {}\n", name()),
        "sa-reserve" => {
            format!("nf-ctl sa reserve --spi {} --lifetime {} >/dev/null\n", name(), text(request, "lifetime_s"))
        }
        "sa-release" => format!("nf-ctl sa release {}\n", name()),
        other => format!("# no command for the request {other}\nexit 1\n"),
    }
}
