//! The smallest driver of an endpoint: two UDP sockets, a clock, and commands on stdin. For trying it against real peers.
//!
//! ```text
//! endpoint LOCAL REMOTE LOCAL_ID REMOTE_ID LOCAL_TS REMOTE_TS psk FILE
//! endpoint LOCAL REMOTE LOCAL_ID REMOTE_ID LOCAL_TS REMOTE_TS cert CERT_FILE KEY_FILE CA_FILE [pss]
//! ```
//! Commands: `initiate`, `rekey-ike`, `rekey-child`, `create-child`, `delete-child`, `delete-unknown`, `delete-ike`,
//! `liveness`, `invalid-spi`, `wait SECONDS`, `quit`. Proposals come from the variables `IKE` and `ESP`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::error::Error;
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use ikev2::config::{Auth, RemoteAddress};
use ikev2::crypto::certificate::{Authorities, LocalCertificate};
use ikev2::crypto::secret::Secret;
use ikev2::wire::ChildSpi;
use ikev2::{Connection, Endpoint, EndpointConfig, Event, SpiError, SpiSource};

/// Random SPIs; a real source asks whoever decapsulates.
struct Spis;

impl SpiSource for Spis {
    fn reserve(&mut self, _: IpAddr, _: IpAddr) -> Result<ChildSpi, SpiError> {
        let random = getrandom::u32().map_err(|error| SpiError(error.to_string()))?;
        Ok(ChildSpi(random | 0x8000_0000))
    }

    fn release(&mut self, _: IpAddr, _: IpAddr, _: ChildSpi) {}
}

/// What can wake the driver, beside its timer.
enum Input {
    Datagram { local: SocketAddr, remote: SocketAddr, payload: Vec<u8> },
    Line(String),
}

/// In front of IKE messages on the NAT port, where ESP has its SPI (RFC 3948 2.2).
const NON_ESP_MARKER: [u8; 4] = [0; 4];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let config = EndpointConfig::default();
    let connection = connection(&args)?;
    let local = connection.local;
    let sockets = [UdpSocket::bind((local, config.port))?, UdpSocket::bind((local, config.nat_port))?];
    let (sender, inputs) = mpsc::channel();
    for (socket, marked) in [(sockets[0].try_clone()?, false), (sockets[1].try_clone()?, true)] {
        let (sender, local) = (sender.clone(), socket.local_addr()?);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, remote)) = socket.recv_from(&mut buffer) {
                let Some(datagram) = buffer.get(..len) else { continue };
                let payload = if marked { datagram.strip_prefix(&NON_ESP_MARKER) } else { Some(datagram) };
                let Some(payload) = payload.map(<[u8]>::to_vec) else { continue };
                if sender.send(Input::Datagram { local, remote, payload }).is_err() {
                    return;
                }
            }
        });
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(Input::Line(line)).is_err() {
                return;
            }
        }
    });
    let mut endpoint = Endpoint::new(config, ikev2::system_rng()?, Box::new(Spis), Instant::now(), SystemTime::now());
    endpoint.add_connection(connection)?;
    println!("ready");
    run(&mut endpoint, &sockets, &inputs)
}

fn connection(args: &[String]) -> Result<Connection, Box<dyn Error>> {
    let [local, remote, local_id, remote_id, local_ts, remote_ts, auth @ ..] = args else {
        return Err("see the head of examples/endpoint.rs for the arguments".into());
    };
    let read = |file: &String| std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
    let auth = match auth {
        [psk, file] if psk == "psk" => Auth::Psk(Secret::from(read(file)?.trim_end().as_bytes())),
        [cert, certificate, key, ca, pss @ ..] if cert == "cert" => Auth::Certificates {
            local: Arc::new(LocalCertificate::from_pem(&read(certificate)?, &read(key)?, !pss.is_empty())?),
            authorities: Arc::new(Authorities::from_pem(&read(ca)?)?),
        },
        _ => return Err("authenticate by 'psk FILE' or 'cert CERT KEY CA'".into()),
    };
    let remote = RemoteAddress::Host(remote.parse()?);
    let mut connection = Connection::new("peer", local.parse()?, remote, local_id.parse()?, auth);
    connection.remote_id = Some(remote_id.parse()?);
    let proposal = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    connection.ike_proposals = vec![proposal("IKE", "aes128gcm16-prfsha256-x25519").parse()?];
    connection.esp_proposals = vec![proposal("ESP", "aes128gcm16").parse()?];
    connection.local_ts = vec![local_ts.parse()?];
    connection.remote_ts = vec![remote_ts.parse()?];
    Ok(connection)
}

fn run(endpoint: &mut Endpoint, sockets: &[UdpSocket; 2], inputs: &Receiver<Input>) -> Result<(), Box<dyn Error>> {
    // Lines wait until the command before them is done.
    let mut lines: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    let mut busy = 0_usize;
    let mut resume = Instant::now();
    loop {
        while busy == 0 && Instant::now() >= resume {
            let Some(line) = lines.pop_front() else { break };
            match command(endpoint, &line)? {
                Next::Done => {}
                Next::Await => busy += 1,
                Next::Pause(pause) => resume = Instant::now() + pause,
                Next::Quit => return Ok(()),
            }
        }
        while let Some(event) = endpoint.poll_event() {
            if matches!(event, Event::Done { .. }) {
                busy = busy.saturating_sub(1);
            }
            println!("{event:?}");
        }
        while let Some(transmit) = endpoint.poll_transmit() {
            let marked = transmit.local.port() == sockets[1].local_addr()?.port();
            let (socket, marker) = if marked { (&sockets[1], &NON_ESP_MARKER[..]) } else { (&sockets[0], &[][..]) };
            socket.send_to(&[marker, &transmit.payload].concat(), transmit.remote)?;
        }
        if busy == 0 && !lines.is_empty() && Instant::now() >= resume {
            continue;
        }
        let mut wake = endpoint.poll_timeout();
        if !lines.is_empty() && busy == 0 {
            wake = Some(wake.map_or(resume, |at| at.min(resume)));
        }
        let patience = wake.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        match inputs.recv_timeout(patience) {
            Ok(Input::Datagram { local, remote, payload }) => {
                endpoint.handle_datagram(Instant::now(), local, remote, &payload);
            }
            Ok(Input::Line(line)) => lines.push_back(line),
            Err(RecvTimeoutError::Timeout) => endpoint.handle_timeout(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// What to do after a command.
enum Next {
    Done,
    Await,
    Pause(Duration),
    Quit,
}

fn command(endpoint: &mut Endpoint, line: &str) -> Result<Next, Box<dyn Error>> {
    let now = Instant::now();
    let up = endpoint.ike_sas().filter(|sa| sa.established).max_by_key(|sa| sa.ike);
    let ike = up.as_ref().map(|sa| sa.ike);
    let child = up.as_ref().and_then(|sa| sa.children.first()).map(|child| child.inbound_spi);
    let (ike, child) = (ike.ok_or("no IKE SA"), child.ok_or("no CHILD_SA"));
    match line.split_once(' ').unwrap_or((line, "")) {
        ("initiate", _) => {
            endpoint.initiate(now, "peer", true)?;
        }
        ("rekey-ike", _) => {
            endpoint.rekey_ike(now, ike?)?;
        }
        ("rekey-child", _) => {
            endpoint.rekey_child(now, ike?, child?)?;
        }
        ("create-child", _) => {
            endpoint.create_child(now, ike?)?;
        }
        ("delete-child", _) => {
            endpoint.delete_child(now, ike?, vec![child?])?;
        }
        ("delete-unknown", _) => {
            endpoint.delete_child(now, ike?, vec![ChildSpi(0x0bad_cafe)])?;
        }
        ("delete-ike", _) => {
            endpoint.delete_ike(now, ike?)?;
        }
        ("liveness", _) => {
            endpoint.liveness(now, ike?)?;
        }
        ("invalid-spi", _) => {
            endpoint.notify_invalid_spi(now, ike?, ChildSpi(0x0bad_cafe))?;
        }
        ("wait", seconds) => return Ok(Next::Pause(Duration::from_secs_f64(seconds.parse()?))),
        ("quit", _) => return Ok(Next::Quit),
        ("", _) => return Ok(Next::Done),
        (other, _) => return Err(format!("unknown command '{other}'").into()),
    }
    Ok(Next::Await)
}
