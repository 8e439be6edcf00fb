//! Hooks: what an operator wants done when something happens, as one scripts it with EEM on IOS.
//!
//! An intermittent fault needs evidence from the moment in which it shows. A [`Hook`] names events, how many of them within
//! which time, and actions: a snapshot, a command, a webhook, a message to syslog. Hooks are a subscriber like any
//! other, on threads of their own: an action that hangs holds up neither a core nor the control thread, only later
//! actions, and those for a bounded time.

mod action;
mod rule;
mod snapshot;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

pub use rule::{Actions, Hook, Subject, Trigger};
pub use snapshot::{SnapshotConfig, Sources};

use crate::config::{Config, SyslogTarget};
use crate::control::proto::{EventKind, EventReport};
use crate::control::subscribers::{Next, Subscription};
use crate::notify::{Notice, Severity, Sink, Syslog};
use crate::types::Nanos;
use rule::Window;

/// Runs that are remembered.
const HISTORY: usize = 256;
/// Runs that may wait for those before them.
const QUEUE_LENGTH: usize = 16;
/// How often the threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(100);

/// A hook, as `nf-ctl event list` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookReport {
    /// Its name.
    pub name: String,
    /// Its trigger.
    pub on: String,
    /// Whose events; empty for all.
    pub subject: String,
    /// So many, within the period.
    pub count: u64,
    /// Seconds.
    pub period_s: u64,
    /// Seconds.
    pub cool_down_s: u64,
    /// What it does.
    pub actions: Vec<String>,
    /// How often it ran, tests included.
    pub runs: u64,
}

/// What a hook did once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HookRun {
    /// Its number.
    pub run: u64,
    /// The hook.
    pub hook: String,
    /// Whether it was a test.
    pub test: bool,
    /// The event that it ran for.
    pub event: EventReport,
    /// Its actions that are done, in order.
    pub actions: Vec<ActionReport>,
    /// Whether it has ended.
    pub done: bool,
}

/// How an action went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActionReport {
    /// Which.
    pub action: String,
    /// Whether it did what it should.
    pub ok: bool,
    /// What there is to say of it.
    pub note: String,
}

/// A test that was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookStarted {
    /// The run's number, to be found in the history.
    pub run: u64,
}

/// A hook that can't be tested.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HookError {
    /// There is none of that name.
    #[error("there is no hook `{0}`; `nf-ctl event list` shows those of nf.toml")]
    NoSuchHook(String),
    /// Too many runs wait.
    #[error("{QUEUE_LENGTH} runs of hooks wait for those before them: look at `nf-ctl event history`, then try again")]
    Busy,
    /// Nothing runs hooks.
    #[error("hooks don't run here: only `nf-core run` has them run")]
    NotRunning,
}

/// A hook, and how often it ran.
#[derive(Debug)]
struct Rule {
    hook: Hook,
    runs: AtomicU64,
}

/// Where what hooks put out goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs {
    /// Snapshots.
    pub snapshots: SnapshotConfig,
    /// Messages.
    pub syslog: Option<SyslogTarget>,
}

impl Outputs {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Outputs {
        Outputs { snapshots: config.snapshot.clone(), syslog: config.notify.syslog.clone() }
    }
}

/// The hooks of a configuration. They are exchanged as a whole; a rule that stays is the same one.
type Rules = Arc<[Arc<Rule>]>;

/// A run that is to be done.
struct Job {
    run: u64,
    rule: Arc<Rule>,
    event: EventReport,
}

/// The hooks, shared by the control thread, which reports on them and exchanges them, and the threads that run them.
pub struct Hooks {
    rules: Mutex<Rules>,
    outputs: Mutex<Arc<Outputs>>,
    next_run: AtomicU64,
    history: Mutex<VecDeque<HookRun>>,
    jobs: (Sender<Job>, Receiver<Job>),
    running: AtomicBool,
}

impl Hooks {
    /// Hooks that don't run yet.
    pub fn new(list: Vec<Hook>, outputs: Outputs) -> Arc<Hooks> {
        let hooks = Hooks {
            rules: Mutex::default(),
            outputs: Mutex::new(Arc::new(outputs)),
            next_run: AtomicU64::new(1),
            history: Mutex::new(VecDeque::new()),
            jobs: bounded(QUEUE_LENGTH),
            running: AtomicBool::new(false),
        };
        hooks.exchange(list);
        Arc::new(hooks)
    }

    /// Takes other hooks from now on. One that stays as it is goes on counting.
    pub fn exchange(&self, hooks: Vec<Hook>) {
        let before = self.rules();
        let rule = |hook: Hook| match before.iter().find(|rule| rule.hook == hook) {
            Some(same) => Arc::clone(same),
            None => Arc::new(Rule { hook, runs: AtomicU64::new(0) }),
        };
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = hooks.into_iter().map(rule).collect();
    }

    /// Puts out elsewhere from the next run on.
    pub fn redirect(&self, outputs: Outputs) {
        let mut now = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if **now != outputs {
            *now = Arc::new(outputs);
        }
    }

    fn outputs(&self) -> Arc<Outputs> {
        Arc::clone(&self.outputs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn rules(&self) -> Rules {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kinds of events that hooks may be for.
    pub fn kinds() -> Vec<EventKind> {
        vec![
            EventKind::InvalidSpi,
            EventKind::SaReplay,
            EventKind::SaAuthFailure,
            EventKind::SaLifetime,
            EventKind::RecoveryFailed,
        ]
    }

    /// All hooks, for display.
    pub fn report(&self) -> Vec<HookReport> {
        let report = |rule: &Arc<Rule>| {
            let Rule { hook, runs } = &**rule;
            HookReport {
                name: hook.name.clone(),
                on: hook.on.to_string(),
                subject: hook.subject.to_string(),
                count: hook.count,
                period_s: hook.period / Nanos::SECOND,
                cool_down_s: hook.cool_down / Nanos::SECOND,
                actions: hook.actions.names(),
                runs: runs.load(Ordering::Relaxed),
            }
        };
        self.rules().iter().map(report).collect()
    }

    /// What they did, the latest first.
    pub fn history(&self, limit: usize) -> Vec<HookRun> {
        self.lock().iter().rev().take(limit).cloned().collect()
    }

    /// Has a hook do what it does, for an event that is made up.
    pub fn test(&self, name: &str, now: Nanos) -> Result<HookStarted, HookError> {
        if !self.running.load(Ordering::Relaxed) {
            return Err(HookError::NotRunning);
        }
        let rules = self.rules();
        let rule = rules.iter().find(|rule| rule.hook.name == name);
        let rule = rule.ok_or_else(|| HookError::NoSuchHook(name.to_owned()))?;
        self.start(rule, rule::made_up(rule.hook.on, now), true).map(|run| HookStarted { run })
    }

    /// Puts a run into the queue.
    fn start(&self, rule: &Arc<Rule>, event: EventReport, test: bool) -> Result<u64, HookError> {
        let run = self.next_run.fetch_add(1, Ordering::Relaxed);
        let name = rule.hook.name.clone();
        let queued = self.jobs.0.try_send(Job { run, rule: Arc::clone(rule), event: event.clone() }).is_ok();
        if queued {
            rule.runs.fetch_add(1, Ordering::Relaxed);
        }
        let skipped = || ActionReport { action: "none".to_owned(), ok: false, note: HookError::Busy.to_string() };
        let actions = if queued { Vec::new() } else { vec![skipped()] };
        let mut history = self.lock();
        if history.len() >= HISTORY {
            history.pop_front();
        }
        history.push_back(HookRun { run, hook: name, test, event, actions, done: !queued });
        if queued { Ok(run) } else { Err(HookError::Busy) }
    }

    fn note(&self, run: u64, change: impl FnOnce(&mut HookRun)) {
        // It may be among the latest only: runs are done in order.
        if let Some(found) = self.lock().iter_mut().rev().find(|found| found.run == run) {
            change(found);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<HookRun>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads that run hooks. Dropping it ends them, and kills a command that is under way.
pub struct Runner {
    hooks: Arc<Hooks>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    /// Starts to run hooks for the events of a subscription; `sources` are asked for snapshots.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(hooks: Arc<Hooks>, events: Subscription, sources: Sources) -> std::io::Result<Runner> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut runner = Runner { hooks: Arc::clone(&hooks), stop: Arc::clone(&stop), threads: Vec::new() };
        let watch = {
            let (hooks, stop) = (Arc::clone(&hooks), Arc::clone(&stop));
            Builder::new().name("nf-hooks".to_owned()).spawn(move || watch(&hooks, &events, &stop))?
        };
        runner.threads.push(watch);
        let act = Builder::new().name("nf-hook-run".to_owned()).spawn(move || act(&hooks, sources, &stop))?;
        runner.threads.push(act);
        runner.hooks.running.store(true, Ordering::Relaxed);
        Ok(runner)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.hooks.running.store(false, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Holds each event against each hook.
fn watch(hooks: &Hooks, events: &Subscription, stop: &AtomicBool) {
    let mut watched: Vec<(Arc<Rule>, Window)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let event = match events.next(LOOK) {
            Next::Event(event) => event,
            Next::Nothing => continue,
            Next::End => return,
        };
        let rules = hooks.rules();
        if !rules.iter().map(Arc::as_ptr).eq(watched.iter().map(|(rule, _)| Arc::as_ptr(rule))) {
            let mut before = std::mem::take(&mut watched);
            let window = |rule: &Arc<Rule>| {
                let place = before.iter().position(|(old, _)| Arc::ptr_eq(old, rule));
                place.map(|place| before.swap_remove(place).1).unwrap_or_default()
            };
            let windows: Vec<Window> = rules.iter().map(window).collect();
            watched = rules.iter().cloned().zip(windows).collect();
        }
        for (rule, window) in &mut watched {
            if window.offer(&rule.hook, &event)
                && let Err(error) = hooks.start(rule, event.clone(), false)
            {
                tracing::warn!(hook = rule.hook.name, %error, "a hook could not run");
            }
        }
    }
}

/// What actions need beside events.
struct Means {
    sources: Sources,
    outputs: Arc<Outputs>,
    syslog: Option<Syslog>,
}

impl Means {
    fn new(sources: Sources, outputs: Arc<Outputs>) -> Means {
        Means { sources, syslog: outputs.syslog.clone().map(Syslog::new), outputs }
    }
}

/// Does one run after the other.
fn act(hooks: &Hooks, sources: Sources, stop: &AtomicBool) {
    let mut means = Means::new(sources, hooks.outputs());
    while !stop.load(Ordering::Relaxed) {
        let job = match hooks.jobs.1.recv_timeout(LOOK) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let outputs = hooks.outputs();
        if !Arc::ptr_eq(&outputs, &means.outputs) {
            means = Means::new(means.sources, outputs);
        }
        carry_out(hooks, &job.rule.hook, &job, &mut means, stop);
        hooks.note(job.run, |run| run.done = true);
    }
}

fn carry_out(hooks: &Hooks, hook: &Hook, job: &Job, means: &mut Means, stop: &AtomicBool) {
    let report = |action: &str, outcome: Result<String, String>| {
        let ok = outcome.is_ok();
        let (Ok(note) | Err(note)) = outcome;
        if ok {
            tracing::info!(hook = hook.name, action, note, "a hook has run");
        } else {
            tracing::warn!(hook = hook.name, action, note, "a hook's action has failed");
        }
        hooks.note(job.run, |run| run.actions.push(ActionReport { action: action.to_owned(), ok, note }));
    };
    let actions = &hook.actions;
    let mut snapshot = None;
    if actions.snapshot {
        let taken = snapshot::take(&means.outputs.snapshots, &means.sources, &hook.name, job.run, &job.event);
        report("snapshot", taken.clone().map(|path| path.display().to_string()));
        snapshot = taken.ok();
    }
    if actions.syslog {
        let outcome = match &mut means.syslog {
            Some(syslog) => {
                let event = serde_json::to_string(&job.event).unwrap_or_default();
                let line = format!("%NF-4-EVENT: hook {}: {event}", hook.name);
                syslog.emit(&Notice { severity: Severity::Warning, mnemonic: "EVENT", line, about: None });
                Ok("handed over".to_owned())
            }
            None => Err("[notify] syslog names no target".to_owned()),
        };
        report("syslog", outcome);
    }
    if let Some(url) = &actions.webhook {
        report("webhook", action::post(hook, url, &job.event));
    }
    if !actions.command.is_empty() {
        report("command", action::run_command(hook, &job.event, snapshot.as_deref(), stop));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subscribers::Subscribers;

    fn hook(name: &str, command: &[&str]) -> Hook {
        Hook {
            name: name.to_owned(),
            on: Trigger::Replay,
            subject: Subject::default(),
            count: 1,
            period: Nanos::SECOND,
            cool_down: 0,
            actions: Actions {
                snapshot: false,
                command: command.iter().map(|part| (*part).to_owned()).collect(),
                webhook: None,
                syslog: false,
                timeout: Duration::from_secs(30),
            },
        }
    }

    fn sources() -> Sources {
        Sources { socket: "/nonexistent".into(), agent: "/nonexistent".into() }
    }

    /// Waits, bounded, for something that other threads do.
    fn wait(what: &str, done: impl Fn() -> bool) {
        for _ in 0..3000 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        unreachable!("waited in vain for {what}");
    }

    #[test]
    fn an_event_has_its_hook_run_and_the_history_tells() {
        let list = vec![hook("good", &["/bin/true"]), hook("bad", &["/bin/false"])];
        let hooks = Hooks::new(list, Outputs::default());
        let mut subscribers = Subscribers::default();
        assert_eq!(hooks.test("good", Nanos(1)), Err(HookError::NotRunning));
        let runner = Runner::start(Arc::clone(&hooks), subscribers.add(Hooks::kinds()), sources()).unwrap();
        subscribers.publish(&rule::made_up(Trigger::Replay, Nanos(1)));
        subscribers.publish(&rule::made_up(Trigger::Lifetime, Nanos(1)));
        let done = |runs| hooks.history(10).iter().filter(|run| run.done).count() == runs;
        wait("both hooks", || done(2));
        assert_eq!(hooks.test("ugly", Nanos(1)), Err(HookError::NoSuchHook("ugly".to_owned())));
        assert_eq!(hooks.test("good", Nanos(9)), Ok(HookStarted { run: 3 }));
        wait("the test", || done(3));
        let history = hooks.history(10);
        let told: Vec<(&str, bool, bool)> =
            history.iter().map(|run| (run.hook.as_str(), run.test, run.actions[0].ok)).collect();
        assert_eq!(told, [("good", true, true), ("bad", false, false), ("good", false, true)]);
        assert_eq!(hooks.report().iter().map(|hook| hook.runs).collect::<Vec<_>>(), [2, 1]);
        drop(runner);
        assert_eq!(hooks.test("good", Nanos(1)), Err(HookError::NotRunning));
    }

    #[test]
    fn hooks_are_exchanged_while_they_run() {
        let list = vec![hook("stays", &["/bin/true"]), hook("goes", &["/bin/true"])];
        let hooks = Hooks::new(list, Outputs::default());
        let mut subscribers = Subscribers::default();
        let runner = Runner::start(Arc::clone(&hooks), subscribers.add(Hooks::kinds()), sources()).unwrap();
        let done = |runs| hooks.history(10).iter().filter(|run| run.done).count() == runs;
        subscribers.publish(&rule::made_up(Trigger::Replay, Nanos(1)));
        wait("both hooks", || done(2));
        hooks.exchange(vec![hook("comes", &["/bin/true"]), hook("stays", &["/bin/true"])]);
        assert_eq!(hooks.test("goes", Nanos(1)), Err(HookError::NoSuchHook("goes".to_owned())));
        subscribers.publish(&rule::made_up(Trigger::Replay, Nanos(2)));
        wait("the new one and the one that stays", || done(4));
        let runs: Vec<_> = hooks.report().into_iter().map(|hook| (hook.name, hook.runs)).collect();
        assert_eq!(runs, [("comes".to_owned(), 1), ("stays".to_owned(), 2)]);
        drop(runner);
    }

    #[test]
    fn messages_go_where_the_last_configuration_says() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = |name: &str| {
            let path = directory.path().join(name);
            (std::os::unix::net::UnixDatagram::bind(&path).unwrap(), SyslogTarget::Unix(path))
        };
        let ((before, first), (after, second)) = (daemon("before"), daemon("after"));
        let mut tells = hook("tells", &[]);
        tells.actions.syslog = true;
        let hooks = Hooks::new(vec![tells], Outputs { syslog: Some(first), ..Outputs::default() });
        let mut subscribers = Subscribers::default();
        let runner = Runner::start(Arc::clone(&hooks), subscribers.add(Hooks::kinds()), sources()).unwrap();
        let heard = |socket: &std::os::unix::net::UnixDatagram| {
            let mut message = [0; 4096];
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let len = socket.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..len]).contains("hook tells")
        };
        hooks.test("tells", Nanos(1)).unwrap();
        assert!(heard(&before));
        hooks.redirect(Outputs { syslog: Some(second), ..Outputs::default() });
        hooks.test("tells", Nanos(2)).unwrap();
        assert!(heard(&after));
        drop(runner);
    }

    #[test]
    fn an_action_that_hangs_holds_up_nobody() {
        let hooks = Hooks::new(vec![hook("hangs", &["/bin/sleep", "1000"])], Outputs::default());
        let mut subscribers = Subscribers::default();
        let runner = Runner::start(Arc::clone(&hooks), subscribers.add(Hooks::kinds()), sources()).unwrap();
        for at in 0..1000 {
            subscribers.publish(&rule::made_up(Trigger::Replay, Nanos(at)));
        }
        wait("the history to fill", || hooks.history(HISTORY).len() == HISTORY);
        let skipped = hooks.history(HISTORY);
        assert!(skipped.iter().any(|run| run.done && run.actions[0].note.contains("wait for those before them")));
        // The command is killed, and what waits is not begun.
        drop(runner);
    }
}
