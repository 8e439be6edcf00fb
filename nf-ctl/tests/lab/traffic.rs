//! Traffic, and eyes for it: pings, and what tcpdump sees with its times.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::netns::Namespace;
use super::wait_for;

/// Sends a signal to a child, by its pid.
pub fn signal(child: &Child, name: &str) {
    // The shell's own `kill`: a bare system has no other.
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// What became of pings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinged {
    pub sent: u32,
    pub answered: u32,
}

/// Pings that go on until they are stopped.
#[derive(Debug)]
pub struct Ping {
    child: Child,
}

impl Ping {
    pub fn start(namespace: &Namespace, from: &str, to: &str, interval: Duration) -> Ping {
        let interval = format!("{:.3}", interval.as_secs_f64());
        let mut command = namespace.command("ping");
        command.args(["-q", "-n", "-i", &interval, "-I", from, to]);
        Ping { child: command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap() }
    }

    /// Stops them, and counts.
    pub fn stop(mut self) -> Pinged {
        signal(&self.child, "INT");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut text).unwrap();
        let line = text.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{text}"));
        let mut numbers = line.split([' ', ',']).filter_map(|word| word.parse().ok());
        Pinged { sent: numbers.next().unwrap(), answered: numbers.next().unwrap() }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A web server with one file, until it is dropped.
#[derive(Debug)]
pub struct FileServer {
    child: Child,
    url: String,
}

impl FileServer {
    pub fn start(namespace: &Namespace, address: &str, dir: &Path, octets: usize) -> FileServer {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), vec![0x5A; octets]).unwrap();
        let mut command = namespace.command("python3");
        command.args(["-m", "http.server", "--bind", address, "8000"]).current_dir(dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        FileServer { child, url: format!("http://{address}:8000/file") }
    }

    /// A shell's command that fetches the file and gives its length.
    pub fn fetch(&self, options: &str) -> String {
        format!("set -o pipefail; curl -sf -m 20 {options} {} | wc -c", self.url)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A packet that was seen.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    /// When, by the kernel's clock, from the epoch.
    pub at: Duration,
    /// tcpdump's line, from the addresses on.
    pub text: String,
}

impl Seen {
    /// The number that follows a word, such as `seq ` in a ping or `spi=0x` in ESP.
    pub fn number(&self, word: &str) -> Option<u32> {
        let (radix, rest) = (if word.ends_with("0x") { 16 } else { 10 }, self.text.split_once(word)?.1);
        let end = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len());
        u32::from_str_radix(&rest[..end], radix).ok()
    }
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts it; when this returns it sees everything.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str, file: &Path) -> Capture {
        let said = file.with_extension("stderr");
        let child = namespace
            .command("tcpdump")
            .args(["-i", interface, "-tt", "-n", "-l", "--immediate-mode", "-s", "128", filter])
            .stdout(fs::File::create(file).unwrap())
            .stderr(fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let capture = Capture { child, file: file.to_owned() };
        let listening = || fs::read_to_string(&said).ok()?.contains("listening on").then_some(());
        wait_for("tcpdump to listen", listening, || fs::read_to_string(&said).unwrap_or_default());
        capture
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        let text = fs::read_to_string(&self.file).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .filter_map(|line| {
                let (at, text) = line.split_once(' ')?;
                Some(Seen { at: Duration::try_from_secs_f64(at.parse().ok()?).ok()?, text: text.to_owned() })
            })
            .collect()
    }

    /// Waits for a packet.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        wait_for(what, || self.seen().into_iter().find(|seen| wanted(seen)), || format!("{:#?}", self.seen()))
    }

    /// The sequence numbers of the echo requests seen so far, in order of arrival.
    pub fn echo_requests(&self) -> Vec<u32> {
        let seen = self.seen();
        seen.iter().filter(|seen| seen.text.contains("echo request")).filter_map(|seen| seen.number("seq ")).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
