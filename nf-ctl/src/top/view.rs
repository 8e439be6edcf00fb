//! The screen of `nf-ctl top`. It fits 80 by 24; what doesn't fit is cut off at the end of each list.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::sample::{Rates, SaRate, Sample, Sort};

/// What is shown beside the numbers.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) sort: Sort,
    pub(super) paused: bool,
    /// Why there are no new numbers, where there are none.
    pub(super) problem: Option<String>,
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, sample: &Sample, rates: &Rates, state: &State) {
    let cores = u16::try_from(rates.cores.len()).unwrap_or(u16::MAX).saturating_add(2).min(7);
    let [head, core_area, drop_area, sa_area, stuck_area, recovery_area, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(cores),
        Constraint::Length(5),
        Constraint::Min(4),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, sample, state);
    core_table(frame, core_area, rates);
    drop_table(frame, drop_area, rates);
    sa_table(frame, sa_area, sample, rates);
    stuck_table(frame, stuck_area, sample);
    recovery(frame, recovery_area, sample);
    footer(frame, foot, state);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn alarm() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn header(frame: &mut Frame<'_>, area: Rect, sample: &Sample, state: &State) {
    let status = &sample.status;
    let (hours, minutes, seconds) = (status.uptime_s / 3600, status.uptime_s / 60 % 60, status.uptime_s % 60);
    let text = format!(
        "nf-core {}, pid {}, up {hours}:{minutes:02}:{seconds:02}, engine {}, SAs {}",
        status.version, status.pid, status.engine, status.sas
    );
    let mut line = Line::from(Span::styled(text, bold()));
    if state.paused {
        line.push_span(Span::styled("  paused", alarm()));
    }
    frame.render_widget(line, area);
}

/// A number in at most six characters: `999`, `12.3k`, `1.2M`.
fn short(number: f64) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    match STEPS.iter().find(|(step, _)| number >= *step) {
        // From 10,000 on in thousands, so that four digits stay exact.
        Some((_, "k")) => format!("{:.1}k", number / 1e3),
        Some((step, unit)) => format!("{:.1}{unit}", number / step),
        None => format!("{number:.0}"),
    }
}

/// A table with a bold header of these columns; numbers stand at the right of theirs.
fn table<'a>(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[(&'static str, u16, bool)],
    rows: impl Iterator<Item = (Vec<String>, Style)> + 'a,
) {
    let aligned = |text: String, right: bool| match right {
        true => Cell::from(Line::from(text).right_aligned()),
        false => Cell::from(text),
    };
    let header = Row::new(columns.iter().map(|(title, _, right)| aligned((*title).to_owned(), *right))).style(bold());
    let room = usize::from(area.height.saturating_sub(1));
    let rows: Vec<Row<'_>> = rows
        .take(room)
        .map(|(cells, style)| {
            Row::new(cells.into_iter().zip(columns).map(|(text, (_, _, right))| aligned(text, *right))).style(style)
        })
        .collect();
    let widths = columns.iter().map(|(_, width, _)| match width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(*width),
    });
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn core_table(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let columns = [
        ("core", 6, false),
        ("received/s", 11, true),
        ("bit/s", 9, true),
        ("sent/s", 11, true),
        ("dropped/s", 11, true),
        ("busy", 6, true),
    ];
    let rows = rates.cores.iter().enumerate().map(|(number, core)| {
        let cells = vec![
            number.to_string(),
            short(core.received),
            short(core.bits),
            short(core.sent),
            short(core.dropped),
            format!("{:.0}%", core.load * 100.0),
        ];
        (cells, Style::new())
    });
    table(frame, area, &columns, rows);
}

fn drop_table(frame: &mut Frame<'_>, area: Rect, rates: &Rates) {
    let columns = [("drop", 5, true), ("reason", 0, false), ("packets/s", 11, true), ("packets", 14, true)];
    let rows = rates.drops.iter().map(|row| {
        let cells = vec![row.index.to_string(), row.name.clone(), short(row.rate), row.packets.to_string()];
        (cells, if row.rate > 0.0 { Style::new().fg(Color::Yellow) } else { Style::new() })
    });
    table(frame, area, &columns, rows);
}

fn sa_table(frame: &mut Frame<'_>, area: Rect, sample: &Sample, rates: &Rates) {
    let Some(sas) = &rates.sas else {
        let text = format!("{} SAs are too many to list: nf-ctl sa list", sample.status.sas);
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let columns = [
        ("SPI", 10, false),
        ("peer", 12, false),
        ("source", 0, false),
        ("state", 6, false),
        ("packets/s", 9, true),
        ("bit/s", 7, true),
        ("replay", 6, true),
        ("bad ICV", 7, true),
    ];
    let rows = sas.iter().map(|SaRate { sa, packets, bits }| {
        let totals = &sa.totals;
        let cells = vec![
            format!("0x{:08X}", sa.spi.0),
            sa.peer.clone().unwrap_or_else(|| "-".to_owned()),
            sa.src.map_or_else(|| "any".to_owned(), |src| src.to_string()),
            sa.state.clone(),
            short(*packets),
            short(*bits),
            short(totals.replay_duplicate.saturating_add(totals.replay_late) as f64),
            short(totals.auth_failed as f64),
        ];
        (cells, if sa.state == "dying" { Style::new().fg(Color::Yellow) } else { Style::new() })
    });
    table(frame, area, &columns, rows);
}

fn stuck_table(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let columns = [
        ("stuck peer", 0, false),
        ("destination", 18, false),
        ("SPI", 10, false),
        ("since s", 8, true),
        ("last s", 7, true),
        ("packets", 10, true),
    ];
    let rows = sample.stuck().map(|flow| {
        let cells = vec![
            flow.src.to_string(),
            flow.dst.to_string(),
            format!("0x{:08X}", flow.spi.0),
            flow.first_seen_s.to_string(),
            flow.last_seen_s.to_string(),
            short(flow.packets as f64),
        ];
        (cells, alarm())
    });
    let none = (sample.stuck().next().is_none()).then(|| (vec!["none".to_owned()], Style::new()));
    table(frame, area, &columns, rows.chain(none));
}

fn recovery(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let lines = match &sample.recovery {
        Err(_) => vec![
            Line::styled("recovery: no agent", bold()),
            Line::from("black-holed peers stay so until they renegotiate; start nf-ctl agent"),
        ],
        Ok(report) => {
            let setting = if report.invalid_spi_recovery { "enabled" } else { "disabled" };
            let head =
                format!("recovery: {setting}, {} of {} IKE messages left", report.budget_left, report.budget_burst);
            let decisions = report.decisions.iter().rev().map(|decision| {
                let peer = decision.peer.as_deref().unwrap_or("-");
                let seconds = decision.last_ms / 1000;
                Line::from(format!("{seconds:>6} s ago  {peer}: {}: {}", decision.action, decision.reason))
            });
            std::iter::once(Line::styled(head, bold())).chain(decisions).collect()
        }
    };
    frame.render_widget(Paragraph::new(lines), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let line = match &state.problem {
        Some(problem) => Line::styled(problem.clone(), alarm()),
        None => Line::from(format!("q quit   p pause   s sort SAs, by {} now", state.sort.name())),
    };
    frame.render_widget(line, area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, wanted) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (1_250_000.0, "1.2M"),
            (3.5e9, "3.5G"),
            (9.9e12, "9.9T"),
        ] {
            assert_eq!(short(number), wanted);
        }
    }
}
