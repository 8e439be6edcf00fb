//! The result as an SVG: frames and bits a second over the frame sizes.

use plotters::prelude::*;

use super::report::{Report, Row};

/// Width and height in pixels.
const SIZE: (u32, u32) = (900, 720);

/// What a chart shows of a row.
struct Curve {
    label: &'static str,
    value: fn(&Row) -> Option<f64>,
    colour: RGBColor,
}

const CURVES: [Curve; 2] = [
    Curve { label: "10^6 frames/s", value: |row| row.pps.map(|pps| pps / 1e6), colour: BLUE },
    Curve { label: "Gbit/s", value: |row| row.gbit_per_s, colour: RED },
];

/// Draws a report.
///
/// # Errors
/// What the drawing library says.
pub fn svg(report: &Report) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        let title = format!(
            "nf-core {}: highest rate without loss, {} x {}, engine {}",
            report.nf_core, report.sas, report.algorithm, report.engine
        );
        let area = root.titled(&title, ("sans-serif", 20)).map_err(|error| error.to_string())?;
        let halves = area.split_evenly((2, 1));
        for (half, curve) in halves.iter().zip(CURVES) {
            chart(half, report, &curve).map_err(|error| error.to_string())?;
        }
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// One of the two charts: a point for each size that has a rate.
fn chart<D: DrawingBackend>(
    area: &DrawingArea<D, plotters::coord::Shift>,
    report: &Report,
    Curve { label, value, colour }: &Curve,
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    let highest = report.rows.iter().filter_map(value).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let sizes = report.rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..(sizes - 0.5).max(0.5), 0.0..top)?;
    let name = |place: &f64| {
        let row = report.rows.get(place.round().max(0.0) as usize);
        row.filter(|_| (place - place.round()).abs() < 0.01 && *place > -0.4)
            .map_or(String::new(), |row| row.size.clone())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * report.rows.len() + 1)
        .x_label_formatter(&name)
        .x_desc("octets of a frame, protected side")
        .y_desc(*label)
        .draw()?;
    let points: Vec<(f64, f64)> =
        report.rows.iter().enumerate().filter_map(|(place, row)| Some((place as f64, value(row)?))).collect();
    chart.draw_series(LineSeries::new(points.iter().copied(), &colour))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    chart.draw_series(
        points.iter().map(|(x, y)| Text::new(format!("{y:.3}"), (*x, y + top * 0.04), ("sans-serif", 13))),
    )?;
    Ok(())
}
