//! A real charon, apart from all others on the machine: configuration, VICI socket, pid file and log are its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::connection::{Connection, Side};
use super::netns::Namespace;
use super::wait_for;

const CHARON: &str = "/usr/lib/ipsec/charon";
const PLUGIN_DIR: &str = "/usr/lib/ipsec/plugins";

/// What every charon of a test loads.
const PLUGINS: &str = "random nonce x509 constraints pubkey pkcs1 pkcs8 pem openssl aes sha1 sha2 hmac gcm kdf drbg mgf1 \
                       curve25519 chapoly kernel-netlink socket-default vici updown counters";

/// Who does ESP for a charon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Esp {
    /// charon itself, by kernel-libipsec, always in UDP: the kernel needs no ESP.
    Libipsec,
    /// The nf-core that serves this control socket, by our plugin.
    NfCore(PathBuf),
}

/// strongSwan's plugins and ours beside them, in a charon's directory.
fn copy_plugins(dir: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = Path::new(env!("CARGO_BIN_EXE_nf-ctl")).parent().unwrap().parent().unwrap();
    let built = Command::new(root.join("scripts/charon-plugin.sh")).arg(target.join("charon-plugin")).output().unwrap();
    let said = String::from_utf8_lossy(&built.stdout);
    assert!(built.status.success(), "{said}{}", String::from_utf8_lossy(&built.stderr));
    let plugins = dir.join("plugins");
    let copied = Command::new("cp").arg("-r").arg(PLUGIN_DIR).arg(&plugins).status().unwrap();
    assert!(copied.success());
    let plugin = said.lines().last().unwrap();
    fs::copy(plugin, plugins.join(Path::new(plugin).file_name().unwrap())).unwrap();
}

/// A running charon; killed when dropped.
#[derive(Debug)]
pub struct Charon {
    dir: PathBuf,
    child: Option<Child>,
}

impl Charon {
    /// Starts one inside a namespace with its files in a directory.
    pub fn start(namespace: &Namespace, dir: &Path, esp: &Esp) -> Charon {
        Charon::start_with(namespace, dir, esp, "")
    }

    /// As [`Charon::start`], with more lines in the section `charon` of its strongswan.conf.
    pub fn start_with(namespace: &Namespace, dir: &Path, esp: &Esp, more: &str) -> Charon {
        fs::create_dir_all(dir.join("run")).unwrap();
        fs::create_dir_all(dir.join("swanctl")).unwrap();
        let here = dir.display();
        let (esp, settings) = match esp {
            Esp::Libipsec => ("kernel-libipsec", "allow_peer_ts = yes".to_owned()),
            Esp::NfCore(socket) => {
                copy_plugins(dir);
                ("kernel-nf-core", format!("socket = {}", socket.display()))
            }
        };
        let conf = format!(
            "charon {{
 # Before kernel-netlink, which is wanted for addresses and routes alone: the first that does ESP has it.
 load = {esp} {PLUGINS}
 {more}
 plugins {{
  vici {{ socket = unix://{here}/vici.sock }}
  {esp} {{ {settings} }}
 }}
 filelog {{ log {{
  path = {here}/log
  append = yes
  default = 1
  ike = 2
  flush_line = yes
  time_format = %T
  time_add_ms = yes
 }} }}
}}
"
        );
        fs::write(dir.join("strongswan.conf"), conf).unwrap();
        let mut charon = Charon { dir: dir.to_owned(), child: None };
        charon.spawn(namespace);
        charon
    }

    fn spawn(&mut self, namespace: &Namespace) {
        // charon has fixed places for its pid file and its plugins. `ip netns exec` gives a mount namespace, so they can
        // be its own.
        let script = format!(
            "cd '{}'; mount --bind run /run; [ ! -d plugins ] || mount --bind plugins {PLUGIN_DIR}; exec {CHARON}",
            self.dir.display()
        );
        let child = namespace
            .command("sh")
            .args(["-ec", &script])
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let answers = || self.swanctl(&["--stats"]).status.success().then_some(());
        wait_for("charon to answer", answers, || self.log());
    }

    /// Starts it anew after [`Charon::kill`] or [`Charon::stop`]. It knows no connection then.
    pub fn restart(&mut self, namespace: &Namespace) {
        assert!(self.child.is_none(), "it runs");
        self.spawn(namespace);
    }

    pub fn vici_socket(&self) -> PathBuf {
        self.dir.join("vici.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits for a line of its log.
    pub fn wait_log(&self, text: &str) {
        wait_for(text, || self.log().contains(text).then_some(()), || self.log());
    }

    /// Runs swanctl against it.
    pub fn swanctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new("swanctl");
        command.args(args).args(["--uri", &format!("unix://{}", self.vici_socket().display())]);
        // Its own libraries read the same configuration, and the default one isn't a test's.
        command.env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"));
        command.env("SWANCTL_DIR", self.dir.join("swanctl")).output().unwrap()
    }

    /// As [`Charon::swanctl`], which has to succeed; gives what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.swanctl(args);
        let said = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        assert!(
            output.status.success(),
            "swanctl {args:?}: {}{}\n{}",
            said(&output.stdout),
            said(&output.stderr),
            self.log()
        );
        said(&output.stdout)
    }

    /// Loads these connections, and no others.
    pub fn load(&self, connections: &[Connection]) {
        let text: String = connections.iter().map(Connection::to_swanctl).collect();
        fs::write(self.dir.join("swanctl/swanctl.conf"), text).unwrap();
        self.ok(&["--load-all", "--noprompt"]);
    }

    /// Brings the CHILD_SA `net` of a connection up.
    pub fn initiate(&self, connection: &str) {
        self.ok(&["--initiate", "--ike", connection, "--child", "net"]);
    }

    pub fn list_sas(&self) -> String {
        self.ok(&["--list-sas"])
    }

    /// Waits until so many CHILD_SAs are installed, and no other is being made or going.
    pub fn wait_children(&self, count: usize) {
        let settled = || {
            let sas = self.list_sas();
            let busy = ["REKEYING", "REKEYED", "DELETING", "DELETED", "CREATED", "CONNECTING"];
            let settled = sas.matches("INSTALLED").count() == count && !busy.iter().any(|state| sas.contains(state));
            settled.then_some(())
        };
        wait_for("its CHILD_SAs", settled, || format!("{}\n{}", self.list_sas(), self.log()));
    }

    /// Ends it without a chance to say goodbye to anyone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it as an operator would: it deletes its SAs, and tells its peers.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            super::traffic::signal(&child, "TERM");
            wait_for("charon to end", || child.try_wait().unwrap(), || self.log());
        }
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The algorithm of a key pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyType {
    Ecdsa,
    Rsa,
}

/// A certificate authority with a certificate for each gateway, where swanctl looks for them.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the authority and both certificates, in a directory.
    pub fn new(dir: &Path, keys: KeyType) -> Pki {
        fs::create_dir_all(dir).unwrap();
        let (kind, size) = match keys {
            KeyType::Ecdsa => ("ecdsa", "256"),
            KeyType::Rsa => ("rsa", "2048"),
        };
        let mut script = format!(
            "pki --gen --type {kind} --size {size} --outform pem > ca.key
             pki --self --ca --in ca.key --type {kind} --dn CN=lab-ca --outform pem > ca.pem\n"
        );
        for side in [Side::Peer, Side::Head] {
            script += &format!(
                "pki --gen --type {kind} --size {size} --outform pem > {id}.key
                 pki --issue --cacert ca.pem --cakey ca.key --in {id}.key --type priv --dn CN={id} --san {id} \
                 --outform pem > {id}.pem\n",
                id = side.id()
            );
        }
        let made = Command::new("sh").args(["-ec", &script]).current_dir(dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Pki { dir: dir.to_owned() }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn certificate(&self, side: Side) -> PathBuf {
        self.dir.join(format!("{}.pem", side.id()))
    }

    /// Its private key, in PEM, for its owner only.
    pub fn key(&self, side: Side) -> PathBuf {
        self.dir.join(format!("{}.key", side.id()))
    }

    /// Puts a gateway's credentials where its charon looks for them; [`Charon::load`] loads them.
    pub fn give_to(&self, charon: &Charon, side: Side) {
        let swanctl = charon.dir.join("swanctl");
        for (from, to) in [
            (self.ca(), "x509ca/ca.pem".to_owned()),
            (self.certificate(side), format!("x509/{}.pem", side.id())),
            (self.key(side), format!("private/{}.pem", side.id())),
        ] {
            let to = swanctl.join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
}
