//! What clients ask about jobs: status by handle and by unique key, and joining a job that exists.

use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, limits};

use crate::io::Reply;
use crate::job::{ConnId, State};
use crate::server::JobServer;

impl JobServer {
    pub(crate) fn handle_get_status(&mut self, conn: ConnId, handle: &[u8]) {
        if handle.len() > limits::HANDLE_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::ArgumentTooLarge,
                error_text::HANDLE_TOO_LARGE,
            );
            return;
        }
        let id = self.handles.parse(handle);
        let recurs = id.is_some_and(|id| self.schedules.is_known(id));
        let job = id
            .and_then(|id| self.jobs.index_of(id))
            .map(|index| self.jobs.get(index));
        let (known, running, numerator, denominator) = job.map_or((recurs, false, 0, 0), |job| {
            let (numerator, denominator) = job.progress();
            let is_running = matches!(job.state, State::Running(_));
            (true, is_running, numerator, denominator)
        });
        let handle = Bytes::copy_from_slice(handle);
        self.reply(
            conn,
            Reply::Status {
                handle,
                known,
                running,
                numerator,
                denominator,
            },
        );
        if let Some(id) = id.filter(|_| !known)
            && self.conns.get(&conn).is_some_and(|c| c.wants_results)
        {
            self.send_result(conn, id);
        }
    }

    pub(crate) fn handle_get_status_unique(&mut self, conn: ConnId, unique: &[u8]) {
        if unique.len() > limits::UNIQUE_BYTES_MAX {
            self.error(
                conn,
                ErrorCode::ArgumentTooLarge,
                error_text::UNIQUE_TOO_LARGE,
            );
            return;
        }
        let unique = Bytes::copy_from_slice(unique);
        let job = self
            .keys
            .first_with_unique(&self.jobs, &unique)
            .map(|index| self.jobs.get(index));
        let (known, running, numerator, denominator, clients) =
            job.map_or((false, false, 0, 0, 0), |job| {
                let clients = u32::try_from(job.clients.len()).unwrap_or(u32::MAX);
                let (numerator, denominator) = job.progress();
                let is_running = matches!(job.state, State::Running(_));
                (true, is_running, numerator, denominator, clients)
            });
        let ended = self.result_with_unique(&unique).filter(|_| !known);
        self.reply(
            conn,
            Reply::StatusUnique {
                unique,
                known,
                running,
                numerator,
                denominator,
                clients,
            },
        );
        if let Some(id) = ended
            && self.conns.get(&conn).is_some_and(|c| c.wants_results)
        {
            self.send_result(conn, id);
        }
    }

    pub(crate) fn handle_attach(&mut self, conn: ConnId, handle: &[u8]) {
        let ended = self.handles.parse(handle);
        let wants_results = self.conns.get(&conn).is_some_and(|c| c.wants_results);
        if let Some(id) = ended.filter(|id| wants_results && self.results.get(*id).is_some()) {
            let handle = self.handles.text(id);
            self.reply(conn, Reply::JobCreated { handle });
            self.send_result(conn, id);
            return;
        }
        match self
            .handles
            .parse(handle)
            .and_then(|id| self.jobs.index_of(id))
        {
            // A job on its way into the store has told its handle to nobody.
            Some(index) if self.jobs.get(index).state != State::Committing => {
                self.attach(conn, index);
                let handle = self.handles.text(self.jobs.get(index).id);
                self.reply(conn, Reply::JobCreated { handle });
            }
            _ => self.error(conn, ErrorCode::JobNotFound, error_text::NO_JOB),
        }
    }
}
