//! How slow a net is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How slow the net is; by default as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second, of all connections together; none is as fast as it goes.
    pub rate: Option<u64>,
    /// For each new connection and each request.
    pub round_trip: Duration,
}

/// Why a text is no [`Shape`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a rate such as 100mbit nor a round trip such as 20ms")]
pub struct ShapeError(String);

/// Units of a rate as tc(8) has them, in bits a second.
const UNITS: [(&str, u64); 3] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000)];

impl FromStr for Shape {
    type Err = ShapeError;

    /// A rate, the time of a round trip, or both: `1gbit,20ms`.
    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let mut shape = Self::default();
        for part in text.split(',') {
            let wrong = || ShapeError(part.to_owned());
            let bits = UNITS.iter().find_map(|(unit, bits)| Some((part.strip_suffix(unit)?, bits)));
            match bits {
                Some((number, bits)) if shape.rate.is_none() => {
                    let number = number.parse().ok().filter(|number: &u64| *number > 0);
                    let rate = number.and_then(|number| number.checked_mul(*bits));
                    shape.rate = Some(rate.ok_or_else(wrong)? / 8);
                }
                None if shape.round_trip.is_zero() => {
                    shape.round_trip = humantime::parse_duration(part).map_err(|_| wrong())?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate.map(|rate| {
            let bits = rate * 8;
            let unit = UNITS.iter().find(|(_, unit)| bits.is_multiple_of(*unit));
            unit.map_or_else(
                || format!("{bits} bit/s"),
                |(name, unit)| format!("{}{name}", bits / unit),
            )
        });
        let trip = (!self.round_trip.is_zero())
            .then(|| humantime::format_duration(self.round_trip).to_string());
        let parts: Vec<String> = rate.into_iter().chain(trip).collect();
        match parts.is_empty() {
            true => f.write_str("as fast as it goes"),
            false => f.write_str(&parts.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_shown() {
        let shape = |text: &str| text.parse::<Shape>();
        let both = Shape { rate: Some(125_000_000), round_trip: Duration::from_millis(20) };
        assert_eq!(shape("1gbit,20ms"), Ok(both));
        assert_eq!(shape("20ms,1gbit"), Ok(both));
        assert_eq!(both.to_string(), "1gbit,20ms");
        assert_eq!(shape("100mbit").unwrap().to_string(), "100mbit");
        assert_eq!(Shape::default().to_string(), "as fast as it goes");
        for bad in
            ["", "gbit", "0mbit", "1gbit,1gbit", "20", "20ms,1s", "1tbit", "999999999999gbit"]
        {
            assert!(shape(bad).is_err(), "{bad}");
        }
    }
}
