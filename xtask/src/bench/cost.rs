//! CloudWatch's bill for one node. Pure.
//!
//! Prices: AWS's list for us-east-1, first tier (up to 10,000 metrics), the free tier left aside.

/// USD a metric and month; a metric is a name with one full set of dimensions.
const USD_PER_METRIC: f64 = 0.30;
/// USD a `PutMetricData` request: 0.01 per thousand.
const USD_PER_REQUEST: f64 = 0.01 / 1000.0;
/// Hours a month, as AWS reckons.
const HOURS: f64 = 730.0;

/// What a node costs in a month.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bill {
    pub(super) metrics: usize,
    pub(super) requests_a_minute: f64,
}

impl Bill {
    pub(super) fn requests(self) -> f64 {
        self.requests_a_minute * 60.0 * HOURS
    }

    pub(super) fn usd(self) -> f64 {
        self.metrics as f64 * USD_PER_METRIC + self.requests() * USD_PER_REQUEST
    }
}

/// The two daemons that this agent replaces, on the same node: `gpumon.py` sends 5 metrics per GPU, one request per GPU
/// every 10 s; the CloudWatch agent sends 18 metrics of the host (3 mounts, 5 block devices) and 6 copies for its
/// rollup by type, one request a minute.
pub(super) fn two_daemons(gpus: usize) -> Bill {
    Bill {
        metrics: 5 * gpus + 18 + 6,
        requests_a_minute: 6.0 * gpus as f64 + 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_of_the_two_daemons_is_the_known_one() {
        let bills = [1, 4, 8].map(two_daemons);
        assert_eq!(bills.map(|bill| bill.metrics), [29, 44, 64]);
        assert_eq!(
            bills.map(|bill| format!("{:.0}", bill.requests())),
            ["306600", "1095000", "2146200"]
        );
        assert_eq!(
            bills.map(|bill| format!("{:.2}", bill.usd())),
            ["11.77", "24.15", "40.66"]
        );
    }
}
