//! The figures as the page that docs/ shows: tables, and a plot.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::{Figures, Row};

/// Between these lines of the page the figures are put.
const BEGIN: &str = "<!-- figures: written by make bench -->";
const END: &str = "<!-- end of figures -->";

/// A line. Writing to a string can't fail.
macro_rules! line {
    ($out:ident, $($arg:tt)*) => {{
        let _ = writeln!($out, $($arg)*);
    }};
}

/// Puts the figures in their place in a page, and a plot beside it. `memory` is what the benchmark `memory` of nf-core has
/// written.
///
/// # Errors
/// A page without a place for figures, or one that can't be read or written.
pub fn write(page: &Path, figures: &Figures, memory: &Value) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", page.display());
    let text = std::fs::read_to_string(page).map_err(failed)?;
    let place = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = place else {
        return Err(format!("{}: there is no `{BEGIN}` and `{END}` to put the figures between", page.display()));
    };
    let plot = page.with_extension("svg");
    std::fs::write(&plot, plotted(&figures.rows)).map_err(|error| format!("{}: {error}", plot.display()))?;
    std::fs::write(page, format!("{before}{BEGIN}\n\n{}\n{END}{after}", tables(figures, memory))).map_err(failed)
}

fn tables(Figures { rows, devices, spreading }: &Figures, memory: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    line!(
        out,
        "{}, {} of them, time-stamp counter at {:.0} MHz, Linux {}, {}, engine `{}`.\n",
        text(&memory["cpu"]),
        memory["cpus"],
        memory["clocks_per_second"].as_f64().unwrap_or_default() / 1e6,
        text(&memory["kernel"]),
        text(&memory["dpdk"]),
        text(&memory["engine"])
    );
    line!(out, "### Beside ipsec-secgw\n");
    line!(
        out,
        "| inner octets | SAs | packets | nf-core Mpps | ipsec-secgw Mpps | its mode | ratio | target | driver | crypto | \
         all else |"
    );
    line!(out, "|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let secgw = row.secgw.as_ref().map_or((0.0, "-"), |secgw| (secgw.received / 1e6, secgw.mode.as_str()));
        let (driver, crypto, rest) = row.shares();
        line!(
            out,
            "| {} | {} | {} | {:.2} | {:.2} | {} | {:.2} | {} | {driver:.0} | {crypto:.0} | {rest:.0} |",
            row.size,
            row.sas,
            row.mix,
            row.nf_core.received / 1e6,
            secgw.0,
            secgw.1,
            row.ratio.unwrap_or_default(),
            ratio_target(row)
        );
    }
    line!(out, "\nThe last three columns are nf-core's clocks a packet, from `show runtime`.\n");
    line!(out, "![packets a second]({})\n", "benchmarks.svg");
    line!(out, "### Opened by a crypto device\n");
    line!(out, "| inner octets | device | Mpps sent | by the usual engine | ratio |");
    line!(out, "|---|---|---|---|---|");
    for row in devices {
        let (device, usual) = (row.device.sent / 1e6, row.usual.sent / 1e6);
        line!(out, "| {} | {} | {device:.2} | {usual:.2} | {:.2} |", row.size, row.device.mode, row.ratio());
    }
    line!(out, "");
    line!(out, "### From memory, without a driver\n");
    line!(out, "| SAs | inner octets | clocks a packet | target | median | crypto | all else |");
    line!(out, "|---|---|---|---|---|---|---|");
    for decap in list(&memory["decap"]) {
        let least = number(&decap["clocks"]["least"]);
        let stages = list(&decap["stages"]);
        let crypto = stages.iter().find(|stage| stage[0] == "decap-open").map_or(0.0, |stage| number(&stage[1]));
        line!(
            out,
            "| {} | {} | {least:.0} | {} | {:.0} | {crypto:.0} | {:.0} |",
            decap["sas"],
            text(&decap["size"]),
            clocks_target(&decap["sas"], &decap["size"]),
            number(&decap["clocks"]["median"]),
            least - crypto
        );
    }
    out += &stages(&list(&memory["decap"]));
    let flood = &memory["flood"];
    let (unknown, mixed, good) =
        (number(&flood["unknown"]["least"]), number(&flood["mixed"]["least"]), number(&flood["good"]["least"]));
    let per_good = number(&flood["unknown_per_good"]);
    line!(
        out,
        "\nA packet on an unknown SPI: {unknown:.0} clocks (target {UNKNOWN_TARGET}). {per_good:.0} of them to one good packet: \
         {mixed:.0} clocks a packet; a good one alone takes {good:.0}. That is {:.2} times what both take one by one, and no \
         good packet was lost.\n",
        mixed * (per_good + 1.0) / (good + per_good * unknown)
    );
    line!(out, "| SAs, visited at random | clocks a packet | of which look-up | memory for an SA |");
    line!(out, "|---|---|---|---|");
    for scale in list(&memory["scale"]) {
        let octets = scale["octets_per_sa"].as_f64().map_or("-".to_owned(), |octets| format!("{octets:.0} octets"));
        line!(
            out,
            "| {} | {:.0} | {:.0} | {octets} |",
            scale["sas"],
            number(&scale["clocks"]["least"]),
            number(&scale["locate"])
        );
    }
    let together = &memory["together"];
    let one = number(&together["one_core"]);
    line!(out, "\n### One SA on two cores\n");
    line!(out, "| | clocks a packet | times one core |");
    line!(out, "|---|---|---|");
    line!(out, "| one core | {one:.0} | 1.00 |");
    for (name, key) in
        [("two cores, shared window", "shared"), ("two cores, SA pinned to one, hand-off ring", "pinned")]
    {
        let clocks = number(&together[key]);
        line!(out, "| {name} | {clocks:.0} | {:.2} |", one / clocks);
    }
    line!(
        out,
        "\nOn the shared window {:.1} % of bursts were done after a later one, by {} bursts at most.",
        number(&together["overtaken_percent"]),
        together["overtaken_by"]
    );
    if let Some(spreading) = spreading {
        let (one, two, order) = (&spreading.one_core, &spreading.two_cores, spreading.order);
        line!(
            out,
            "\nOver net_pcap, with one receive queue as a NIC has for a tunnel, packets of 512 octets inside:\n"
        );
        line!(out, "| | Mpps sent | times one core |");
        line!(out, "|---|---|---|");
        line!(out, "| one core, which receives and does everything | {:.2} | 1.00 |", one.sent / 1e6);
        line!(out, "| spread over two | {:.2} | {:.2} |", two.sent / 1e6, two.sent / one.sent);
        line!(
            out,
            "\nOf {} numbered packets that were all handed out in turn (`spread = \"on\"`) {:.2} % came out behind a later one, \
             by {} packets at most.",
            order.packets,
            order.late_percent(),
            order.extent
        );
    }
    out
}

/// Clocks for a packet on an unknown SPI.
const UNKNOWN_TARGET: u32 = 50;

/// Clocks a packet that are aimed at.
fn clocks_target(sas: &Value, size: &Value) -> &'static str {
    match (sas.as_u64(), size.as_str()) {
        (Some(1), Some("64")) => "180",
        (Some(1), Some("512")) => "280",
        (Some(1), Some("1400")) => "440",
        (Some(1000), Some("64")) => "220",
        (Some(1000), Some("512")) => "320",
        (Some(1000), Some("1400")) => "500",
        _ => "-",
    }
}

/// Times ipsec-secgw's packets that are aimed at.
fn ratio_target(row: &Row) -> &'static str {
    match (row.mix.as_str(), row.size.as_str()) {
        ("good", "64") => "1.50",
        ("good", "1400") => "1.20",
        _ => "-",
    }
}

/// The stages of each case from memory, a column each.
fn stages(cases: &[Value]) -> String {
    let mut out = String::new();
    let Some(first) = cases.first() else {
        return out;
    };
    let mut head = "\n| clocks a packet of the stage |".to_owned();
    for case in cases {
        let plural = if case["sas"] == 1 { "" } else { "s" };
        let _ = write!(head, " {} SA{plural}, {} |", case["sas"], case["size"].as_str().unwrap_or("?"));
    }
    line!(out, "{head}");
    line!(out, "|---|{}", "---|".repeat(cases.len()));
    for (place, stage) in list(&first["stages"]).iter().enumerate() {
        let mut row = format!("| {} |", stage[0].as_str().unwrap_or("?"));
        for case in cases {
            let _ = write!(row, " {:.1} |", number(&case["stages"][place][1]));
        }
        line!(out, "{row}");
    }
    out
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Two bars for each row, as an SVG picture.
fn plotted(rows: &[Row]) -> String {
    const BAR: usize = 26;
    const GAP: usize = 24;
    const HEIGHT: f64 = 260.0;
    const BASE: f64 = 300.0;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.mix == "good").collect();
    let rate = |row: &Row| (row.nf_core.received / 1e6, row.secgw.as_ref().map_or(0.0, |secgw| secgw.received / 1e6));
    let most = rows.iter().map(|row| rate(row)).fold(1.0_f64, |most, (a, b)| most.max(a).max(b));
    let width = 60 + rows.len() * (2 * BAR + GAP);
    let mut out = String::new();
    line!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"360\" font-family=\"sans-serif\">"
    );
    line!(out, "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
    line!(
        out,
        "<text x=\"10\" y=\"20\" font-size=\"14\">Packets a second on one core (millions), by inner octets and SAs</text>"
    );
    for (colour, x, name) in [("#1f6f8b", 10, "nf-core"), ("#c9a66b", 110, "ipsec-secgw")] {
        line!(out, "<rect x=\"{x}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        line!(out, "<text x=\"{}\" y=\"37\" font-size=\"11\">{name}</text>", x + 14);
    }
    for (place, row) in rows.iter().enumerate() {
        let x = 30 + place * (2 * BAR + GAP);
        let (nf_core, secgw) = rate(row);
        for (x, value, colour) in [(x, nf_core, "#1f6f8b"), (x + BAR, secgw, "#c9a66b")] {
            let height = value / most * (HEIGHT - 40.0);
            let y = BASE - height;
            line!(out, "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"{colour}\"/>", BAR - 2);
            line!(out, "<text x=\"{x}\" y=\"{:.1}\" font-size=\"10\">{value:.1}</text>", y - 3.0);
        }
        line!(out, "<text x=\"{x}\" y=\"316\" font-size=\"11\">{}</text>", row.size);
        line!(
            out,
            "<text x=\"{x}\" y=\"332\" font-size=\"11\">{} SA{}</text>",
            row.sas,
            if row.sas == 1 { "" } else { "s" }
        );
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::order::Order;
    use crate::bench::spread::Spreading;
    use crate::bench::{ByDevice, Measured};

    fn row() -> Row {
        let measured = |mode: &str, received| Measured {
            mode: mode.to_owned(),
            received,
            sent: received,
            median: received,
            stages: vec![("receive".to_owned(), 80.0), ("decap-open".to_owned(), 100.0), ("parse".to_owned(), 20.0)],
        };
        Row {
            size: "64".to_owned(),
            sas: 1,
            mix: "good".to_owned(),
            nf_core: measured("nf-core", 9e6),
            secgw: Some(measured("librte_ipsec", 6e6)),
            ratio: Some(1.5),
        }
    }

    fn memory() -> Value {
        let decap = |sas: u32, least: f64| {
            let stages = serde_json::json!([["parse", 20.0], ["decap-open", least - 60.0]]);
            serde_json::json!({"sas": sas, "size": "64", "clocks": {"least": least, "median": least}, "stages": stages})
        };
        serde_json::json!({"cpu": "a CPU", "engine": "ipsec-mb", "decap": [decap(1, 200.0), decap(1000, 300.0)]})
    }

    fn figures() -> Figures {
        let measured = row().nf_core;
        let order = Order::of([1, 3, 2, 4]);
        Figures {
            rows: vec![row()],
            devices: vec![ByDevice {
                size: "64".to_owned(),
                usual: measured.clone(),
                device: Measured { mode: "nf-core with a device".to_owned(), sent: 4.5e6, ..measured.clone() },
            }],
            spreading: Some(Spreading {
                one_core: measured.clone(),
                two_cores: Measured { sent: 17.1e6, ..measured },
                order,
            }),
        }
    }

    #[test]
    fn figures_take_their_place_and_leave_the_rest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("benchmarks.md");
        std::fs::write(&page, format!("# Title\n{BEGIN}\nold\n{END}\nbehind\n")).unwrap();
        write(&page, &figures(), &memory()).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("# Title\n") && text.ends_with(&format!("{END}\nbehind\n")), "{text}");
        assert!(!text.contains("old"), "{text}");
        assert!(
            text.contains("| 64 | 1 | good | 9.00 | 6.00 | librte_ipsec | 1.50 | 1.50 | 80 | 100 | 20 |"),
            "{text}"
        );
        assert!(text.contains("| 64 | nf-core with a device | 4.50 | 9.00 | 0.50 |"), "{text}");
        assert!(text.contains("| 1 | 64 | 200 | 180 | 200 | 140 | 60 |"), "{text}");
        assert!(text.contains("| decap-open | 140.0 | 240.0 |"), "{text}");
        assert!(text.contains("| spread over two | 17.10 | 1.90 |"), "{text}");
        assert!(
            text.contains("Of 4 numbered packets") && text.contains("25.00 % came out behind a later one, by 1"),
            "{text}"
        );
        let plot = std::fs::read_to_string(dir.path().join("benchmarks.svg")).unwrap();
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && plot.contains(">9.0<"), "{plot}");
    }

    #[test]
    fn a_page_without_a_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("page.md");
        std::fs::write(&page, "nothing here").unwrap();
        assert!(write(&page, &figures(), &Value::Null).is_err_and(|error| error.contains("figures")));
    }
}
