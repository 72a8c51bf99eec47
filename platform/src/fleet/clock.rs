//! A timer for wall-clock time that notices when the clock is set.
//!
//! Due times are wall-clock times, since they outlive the machine's uptime; a plain sleep would miss a suspended machine or a clock that
//! was set. `timerfd` on CLOCK_REALTIME with `TFD_TIMER_CANCEL_ON_SET` does not: a change of the clock makes it readable, and
//! whoever waits looks at the time again.

use std::{io, os::fd::OwnedFd, time::SystemTime};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Unix milliseconds now.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The timer.
#[derive(Debug)]
pub struct WallTimer {
    fd: AsyncFd<OwnedFd>,
    set_to: Option<u64>,
}

impl WallTimer {
    /// A timer that is not set. Needs a tokio runtime.
    pub fn new() -> io::Result<WallTimer> {
        let fd = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "sound for a type that owns its descriptor; the replacement needs unsafe")]
        let fd = AsyncFd::new(fd)?;
        Ok(WallTimer { fd, set_to: None })
    }

    /// Sets the timer, in unix milliseconds, or stops it.
    pub fn set(&mut self, unix_ms: Option<u64>) -> io::Result<()> {
        if self.set_to == unix_ms {
            return Ok(());
        }
        let at = match unix_ms {
            // All zeroes would stop it.
            Some(ms) => Timespec { tv_sec: (ms / 1000).max(1) as i64, tv_nsec: (ms % 1000 * 1_000_000) as _ },
            None => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
        self.set_to = unix_ms;
        Ok(())
    }

    /// Waits until the time has come or the clock was set; the timer is not set afterwards. Cancel-safe.
    pub async fn fired(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?)) {
                Ok(Ok(_)) => break,
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) => break,
                Ok(Err(error)) => return Err(error),
                Err(_not_yet) => {}
            }
        }
        self.set_to = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn fires_at_its_time_and_only_when_set() {
        let mut timer = WallTimer::new().unwrap();
        let due = unix_ms() + 30;
        timer.set(Some(due)).unwrap();
        timer.fired().await.unwrap();
        assert!(unix_ms() >= due);
        timer.set(Some(unix_ms() + 20)).unwrap();
        timer.set(None).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(60), timer.fired()).await.is_err());
    }

    #[tokio::test]
    async fn the_past_fires_at_once() {
        let mut timer = WallTimer::new().unwrap();
        timer.set(Some(0)).unwrap();
        timer.fired().await.unwrap();
    }
}
