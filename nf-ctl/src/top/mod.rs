//! `nf-ctl top`: what nf-core does, on a screen that is drawn anew once a second.

mod sample;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::Error;
use crate::args::Cli;
use sample::{Rates, Sample, Sort};
use view::State;

/// How often the numbers are asked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Quit,
    Pause,
    Sort,
}

fn action(key: KeyEvent) -> Option<Action> {
    match key.code {
        _ if key.kind != KeyEventKind::Press => None,
        KeyCode::Char('q') | KeyCode::Esc => Some(Action::Quit),
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Action::Quit),
        KeyCode::Char('p' | ' ') => Some(Action::Pause),
        KeyCode::Char('s') => Some(Action::Sort),
        _ => None,
    }
}

/// Runs until a key ends it.
pub(crate) fn run(cli: &Cli) -> Result<(), Error> {
    if cli.json {
        return Err(Error::Usage("`top` is for people: programs take `show counters --json` and [metrics]".to_owned()));
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::Usage("`top` needs a terminal".to_owned()));
    }
    // Before the screen changes: what keeps it from starting is said as by any command.
    let first = Sample::take(cli)?;
    let mut terminal =
        ratatui::try_init().map_err(|error| Error::File(format!("the terminal can't be used: {error}")))?;
    let ended = watch(cli, &mut terminal, first);
    ratatui::restore();
    ended.map_err(|error| Error::File(format!("the terminal can't be used: {error}")))
}

fn watch(cli: &Cli, terminal: &mut DefaultTerminal, first: Sample) -> std::io::Result<()> {
    let mut state = State { sort: Sort::Rate, paused: false, problem: None };
    let (mut before, mut now) = (first.clone(), first);
    let mut next = Instant::now() + INTERVAL;
    loop {
        let rates = Rates::between(&before, &now, state.sort);
        terminal.draw(|frame| view::draw(frame, &now, &rates, &state))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            // Whatever else happens, such as another size of the terminal, is a reason to draw.
            if let Event::Key(key) = event::read()? {
                match action(key) {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Pause) => state.paused = !state.paused,
                    Some(Action::Sort) => state.sort = state.sort.next(),
                    None => {}
                }
            }
            continue;
        }
        next = Instant::now() + INTERVAL;
        if state.paused {
            continue;
        }
        match Sample::take(cli) {
            Ok(sample) => {
                before = std::mem::replace(&mut now, sample);
                state.problem = None;
            }
            // The last numbers stay, and it goes on when nf-core is back.
            Err(error) => state.problem = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nf_core::control::proto::{SaReport, Status};
    use nf_core::counters::CoreCounters;
    use nf_core::drop::DropReason;
    use nf_core::notify::{Class, FlowReport, NotifyReport};
    use nf_core::stage::StageCounters;
    use nf_ctl::agent::proto::{DecisionReport, RecoveryReport};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn sa(spi: u32, peer: &str, packets: u64) -> SaReport {
        serde_json::from_value(json!({
            "spi": spi, "src": "10.1.1.1", "dst": "10.10.1.2", "peer": peer, "mode": "tunnel", "encap": "none",
            "transform": "esp-gcm 128", "esn": false, "replay_window": 64, "selectors": {"src": [], "dst": []},
            "state": "mature", "age_s": 9, "highest_seq": null, "packets": packets, "octets": packets * 100,
            "replay_duplicate": 40, "replay_late": 2, "auth_failed": 3, "refused": 0,
        }))
        .unwrap()
    }

    fn sample(at: Instant, packets: u64) -> Sample {
        let core = CoreCounters::default();
        core.rx().add(packets, packets * 1000);
        core.drops(DropReason::UnknownSpiV4).add(packets / 10, 0);
        core.drops(DropReason::Replay).add(7, 0);
        let stages = StageCounters::default();
        stages.busy_poll();
        (0..3).for_each(|_| stages.empty_poll(1));
        let status: Status = serde_json::from_value(json!({
            "protocol": 1, "version": "0.1.0", "dpdk": "DPDK", "pid": 4711, "uptime_s": 93_784, "cores": 1, "engine": "aes-gcm",
            "sas": 2, "ports": [],
        }))
        .unwrap();
        let flow = FlowReport {
            src: "10.9.9.9".parse().unwrap(),
            dst: "10.10.1.2".parse().unwrap(),
            spi: nf_core::types::Spi(0xB761_863E),
            udp_ports: None,
            class: Class::Stuck,
            first_seen_s: 180,
            last_seen_s: 1,
            packets: 64_574,
            events: 180,
            messages: 3,
        };
        let decision = DecisionReport {
            first_ms: 3014,
            last_ms: 3014,
            count: 1,
            peer: Some("branch".to_owned()),
            address: None,
            spi: None,
            trigger: "invalid SPI".to_owned(),
            action: "initiate".to_owned(),
            reason: "no IKE SA with the peer: new IKE SA with INITIAL_CONTACT".to_owned(),
        };
        Sample {
            at,
            status,
            cores: vec![core.snapshot().report()],
            runtime: vec![stages.report()],
            sas: Some(vec![sa(0x1000, "branch-1", 500), sa(0x2000, "branch-2", packets)]),
            invalid: NotifyReport {
                packets: 64_574,
                events: 180,
                messages: 3,
                flows_tracked: 1,
                flows_stuck: 1,
                flows_evicted: 0,
                flows: vec![flow],
            },
            recovery: Ok(RecoveryReport {
                invalid_spi_recovery: true,
                budget_left: 197,
                budget_burst: 200,
                budget_per_min: 600,
                totals: std::collections::BTreeMap::new(),
                decisions: vec![decision],
            }),
        }
    }

    fn screen(width: u16, height: u16, before: &Sample, now: &Sample, state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let rates = Rates::between(before, now, state.sort);
        terminal.draw(|frame| view::draw(frame, now, &rates, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        text.map(|row| row.trim_end().to_owned() + "\n").collect()
    }

    fn two_samples() -> (Sample, Sample) {
        let start = Instant::now();
        (sample(start, 1_000), sample(start + Duration::from_secs(2), 101_000))
    }

    #[test]
    fn everything_is_on_a_screen_of_80_by_24() {
        let (before, now) = two_samples();
        let state = State { sort: Sort::Rate, paused: false, problem: None };
        let shown = screen(80, 24, &before, &now, &state);
        let words = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
        let rows: Vec<String> = shown.lines().map(words).collect();
        for row in [
            "nf-core 0.1.0, pid 4711, up 26:03:04, engine aes-gcm, SAs 2",
            "0 50.0k 400.0M 0 5000 0%",
            "4 IN_US_V4_PKT_SA_NOT_FOUND_SPI 5000 10100",
            "19 IN_CD_SW_IPSEC_ANTI_REPLAY_FAIL 0 7",
            "0x00002000 branch-2 10.1.1.1 mature 50.0k 40.0M 42 3",
            "10.9.9.9 10.10.1.2 0xB761863E 180 1 64.6k",
            "recovery: enabled, 197 of 200 IKE messages left",
            "3 s ago branch: initiate: no IKE SA with the peer: new IKE SA with INITIAL",
            "q quit p pause s sort SAs, by rate now",
        ] {
            assert!(rows.iter().any(|shown| shown == row), "{row:?} isn't in\n{shown}");
        }
        let (first, second) = (shown.find("branch-2").unwrap(), shown.find("branch-1").unwrap());
        assert!(first < second, "by rate\n{shown}");
        let by_spi = screen(80, 24, &before, &now, &State { sort: Sort::Spi, ..state });
        assert!(by_spi.find("branch-1").unwrap() < by_spi.find("branch-2").unwrap(), "{by_spi}");
    }

    #[test]
    fn what_is_missing_is_said_and_no_size_makes_it_panic() {
        let (before, mut now) = two_samples();
        now.recovery = Err("no agent".to_owned());
        now.sas = None;
        now.status.sas = 9_999;
        now.invalid.flows.clear();
        let state = State { sort: Sort::Rate, paused: true, problem: Some("no nf-core at /run/nf.sock".to_owned()) };
        let shown = screen(80, 24, &before, &now, &state);
        for text in
            ["paused", "9999 SAs are too many to list", "recovery: no agent", "none", "no nf-core at /run/nf.sock"]
        {
            assert!(shown.contains(text), "{text:?} isn't in\n{shown}");
        }
        for (width, height) in [(1, 1), (20, 5), (79, 10), (300, 100)] {
            screen(width, height, &before, &now, &state);
        }
    }

    #[test]
    fn a_restart_of_nf_core_is_no_rate() {
        let (mut before, now) = two_samples();
        before.status.pid = 1;
        let rates = Rates::between(&before, &now, Sort::Rate);
        assert_eq!(rates.cores[0], sample::CoreRate::default());
    }

    #[test]
    fn keys() {
        let press = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(press(KeyCode::Char('q')), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('p')), Some(Action::Pause));
        assert_eq!(press(KeyCode::Char('s')), Some(Action::Sort));
        assert_eq!(press(KeyCode::Char('c')), None);
        assert_eq!(action(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Action::Quit));
    }
}
