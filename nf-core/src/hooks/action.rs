//! Commands and webhooks, each within its time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::rule::{Hook, facts};
use crate::control::proto::EventReport;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The event's fields as a command finds them in its environment.
fn environment(hook: &Hook, event: &EventReport, snapshot: Option<&Path>) -> Vec<(&'static str, String)> {
    let facts = facts(event);
    let json = serde_json::to_string(event).unwrap_or_default();
    let kind = event.kind().map_or("", |kind| kind.name());
    let mut variables = vec![
        ("NF_HOOK", hook.name.clone()),
        ("NF_TRIGGER", hook.on.as_str().to_owned()),
        ("NF_EVENT", kind.to_owned()),
        ("NF_EVENT_JSON", json),
    ];
    let mut add = |name, value: Option<String>| variables.extend(value.map(|value| (name, value)));
    add("NF_PEER", facts.peer.map(str::to_owned));
    add("NF_SRC", facts.src.map(|src| src.to_string()));
    add("NF_DST", facts.dst.map(|dst| dst.to_string()));
    add("NF_SPI", facts.spi.map(|spi| format!("0x{:08X}", spi.0)));
    add("NF_PACKETS", facts.packets.map(|packets| packets.to_string()));
    add("NF_SNAPSHOT", snapshot.map(|path| path.display().to_string()));
    variables
}

/// Runs a program with its arguments: no shell, nothing on its standard input, an environment of `PATH` and the event's
/// fields. It and all that it has started are killed when its time is over, or when `stop` is set.
///
/// # Errors
/// How it failed, in a few words.
pub(super) fn run_command(
    hook: &Hook,
    event: &EventReport,
    snapshot: Option<&Path>,
    stop: &AtomicBool,
) -> Result<String, String> {
    let Some((program, arguments)) = hook.actions.command.split_first() else {
        return Err("there is no command".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment(hook, event, snapshot))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{program} can't be started: {error}"))?;
    let deadline = Instant::now() + hook.actions.timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return ended(program, status),
            Ok(None) if stop.load(Ordering::Relaxed) => {
                kill(&mut child);
                return Err(format!("{program} was killed: nf-core ends"));
            }
            Ok(None) if Instant::now() >= deadline => {
                kill(&mut child);
                return Err(format!("{program} was killed after {} s", hook.actions.timeout.as_secs()));
            }
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => {
                kill(&mut child);
                return Err(format!("{program}: {error}"));
            }
        }
    }
}

fn ended(program: &str, status: ExitStatus) -> Result<String, String> {
    if status.success() { Ok(format!("{program} ended well")) } else { Err(format!("{program} ended with {status}")) }
}

/// Kills a child with all of its process group, and waits for it.
fn kill(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended in this moment.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// Posts the event as JSON.
///
/// # Errors
/// How it failed, in a few words.
pub(super) fn post(hook: &Hook, url: &str, event: &EventReport) -> Result<String, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(hook.actions.timeout))
        .max_redirects(0)
        // A proxy of the environment is for programs of users.
        .proxy(None)
        .build()
        .into();
    let body = serde_json::json!({"hook": hook.name, "event": event}).to_string();
    let response = agent.post(url).header("Content-Type", "application/json").send(body.as_str());
    response.map(|response| format!("{url} answers {}", response.status())).map_err(|error| format!("{url}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::hooks::rule::{Actions, Subject, Trigger, made_up};
    use crate::types::Nanos;

    fn hook(command: &[&str], timeout: Duration) -> Hook {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let actions = Actions { snapshot: false, command, webhook: None, syslog: false, timeout };
        let (subject, on) = (Subject::default(), Trigger::Replay);
        Hook { name: "test".to_owned(), on, subject, count: 1, period: 1, cool_down: 0, actions }
    }

    fn run(hook: &Hook, stop: bool) -> Result<String, String> {
        run_command(hook, &made_up(Trigger::Replay, Nanos(7)), Some(Path::new("/snap")), &AtomicBool::new(stop))
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_command_gets_its_arguments_and_the_event() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        // The shell is the test's: what nf-core passes is a list, in which `$HOME; rm` is a word like others.
        let script = "printf '%s\\n' \"$1\" > \"$0\"; env >> \"$0\"";
        let hook = hook(&["/bin/sh", "-c", script, out.to_str().unwrap(), "$HOME; rm"], LONG);
        assert_eq!(run(&hook, false), Ok("/bin/sh ended well".to_owned()));
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.starts_with("$HOME; rm\n"), "{text}");
        for line in [
            "NF_HOOK=test",
            "NF_TRIGGER=replay",
            "NF_EVENT=sa-replay",
            "NF_PEER=test",
            "NF_SRC=192.0.2.1",
            "NF_DST=198.51.100.1",
            "NF_SPI=0x00000100",
            "NF_PACKETS=1",
            "NF_SNAPSHOT=/snap",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("CARGO"), "nothing of nf-core's own environment");
    }

    #[test]
    fn a_command_that_fails_says_how() {
        assert_eq!(run(&hook(&["/bin/false"], LONG), false), Err("/bin/false ended with exit status: 1".to_owned()));
        let missing = run(&hook(&["/nonexistent"], LONG), false).unwrap_err();
        assert!(missing.starts_with("/nonexistent can't be started: No such file"), "{missing}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = "sleep 1000 & echo $! > \"$0\"; wait";
        let hanging = hook(&["/bin/sh", "-c", script, pid.to_str().unwrap()], Duration::from_secs(1));
        assert_eq!(run(&hanging, false), Err("/bin/sh was killed after 1 s".to_owned()));
        let child = std::fs::read_to_string(&pid).unwrap();
        // Gone, or a zombie that its new parent has not collected: a moment later, on a busy machine.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let deadline = Instant::now() + LONG;
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(Instant::now() < deadline, "{}", state());
            std::thread::sleep(Duration::from_millis(10));
        }
        let stopped = run(&hook(&["/bin/sleep", "1000"], LONG), true);
        assert_eq!(stopped, Err("/bin/sleep was killed: nf-core ends".to_owned()));
    }

    #[test]
    fn a_webhook_gets_the_event_as_json() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            let mut first = String::new();
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            (first, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
        });
        let event = made_up(Trigger::Replay, Nanos(7));
        let posted = post(&hook(&[], LONG), &url, &event);
        assert_eq!(posted, Ok(format!("{url} answers 204 No Content")));
        let (first, body) = server.join().unwrap();
        assert_eq!(first, "POST /hook HTTP/1.1\r\n");
        assert_eq!((&body["hook"], &body["event"]["kind"]), (&"test".into(), &"sa-replay".into()));
        let refused = post(&hook(&[], LONG), &url, &event).unwrap_err();
        assert!(refused.starts_with(&url), "{refused}");
    }
}
