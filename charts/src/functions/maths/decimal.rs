//! Numbers in decimals, so that 0.1 + 0.2 is 0.3.

/// `digits * 10^-places`; what does not fit is counted as a float.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decimal {
    Exact { digits: i128, places: u32 },
    Float(f64),
}

/// Places that a division goes to.
const DIVISION_PLACES: u32 = 16;

impl From<f64> for Decimal {
    fn from(number: f64) -> Decimal {
        exact(&number.to_string()).unwrap_or(Decimal::Float(number))
    }
}

/// The number of a text without exponent.
fn exact(text: &str) -> Option<Decimal> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() + part.len() > 30 {
        return None;
    }
    let digits = [whole, part].concat().parse().ok()?;
    Some(Decimal::Exact { digits, places: u32::try_from(part.len()).ok()? })
}

impl From<Decimal> for f64 {
    fn from(decimal: Decimal) -> f64 {
        match decimal {
            Decimal::Exact { digits, places } => {
                format!("{digits}e-{places}").parse().unwrap_or(f64::NAN)
            }
            Decimal::Float(number) => number,
        }
    }
}

impl Decimal {
    pub(super) fn add(self, other: Decimal) -> Decimal {
        self.aligned(other)
            .and_then(|(left, right, places)| Some((left.checked_add(right)?, places)))
            .map_or_else(|| Decimal::Float(f64::from(self) + f64::from(other)), Decimal::of)
    }

    pub(super) fn sub(self, other: Decimal) -> Decimal {
        self.aligned(other)
            .and_then(|(left, right, places)| Some((left.checked_sub(right)?, places)))
            .map_or_else(|| Decimal::Float(f64::from(self) - f64::from(other)), Decimal::of)
    }

    pub(super) fn mul(self, other: Decimal) -> Decimal {
        let product = || {
            let (Decimal::Exact { digits, places }, Decimal::Exact { digits: by, places: more }) =
                (self, other)
            else {
                return None;
            };
            Some((digits.checked_mul(by)?, places.checked_add(more)?))
        };
        product().map_or_else(|| Decimal::Float(f64::from(self) * f64::from(other)), Decimal::of)
    }

    /// Rounded to the sixteenth place; the divisor is not zero.
    pub(super) fn div(self, other: Decimal) -> Decimal {
        let quotient = || {
            let (left, right, _) = self.aligned(other)?;
            let left = left.checked_mul(10_i128.checked_pow(DIVISION_PLACES)?)?;
            let (whole, rest) = (left / right, left % right);
            let up = rest.unsigned_abs().checked_mul(2)? >= right.unsigned_abs();
            let sign = if (left < 0) == (right < 0) { 1 } else { -1 };
            Some((whole + if up { sign } else { 0 }, DIVISION_PLACES))
        };
        quotient().map_or_else(|| Decimal::Float(f64::from(self) / f64::from(other)), Decimal::of)
    }

    fn of((digits, places): (i128, u32)) -> Decimal {
        Decimal::Exact { digits, places }
    }

    /// Both with as many places.
    fn aligned(self, other: Decimal) -> Option<(i128, i128, u32)> {
        let (
            Decimal::Exact { digits: left, places },
            Decimal::Exact { digits: right, places: more },
        ) = (self, other)
        else {
            return None;
        };
        let most = places.max(more);
        let left = left.checked_mul(10_i128.checked_pow(most - places)?)?;
        let right = right.checked_mul(10_i128.checked_pow(most - more)?)?;
        Some((left, right, most))
    }
}
