//! What an operator has asked for and waits to see the end of.

use std::collections::VecDeque;

use super::proto::Task;

/// Tasks that are remembered. One that nobody has asked about for so many others is forgotten.
const MAX_TASKS: usize = 256;

/// A task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskId(pub u64);

/// The tasks, the newest last.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: VecDeque<(TaskId, Task)>,
    last: u64,
}

impl Tasks {
    /// A new task, which is running.
    pub fn start(&mut self) -> TaskId {
        self.last += 1;
        if self.tasks.len() >= MAX_TASKS {
            self.tasks.pop_front();
        }
        self.tasks.push_back((TaskId(self.last), Task::Running));
        TaskId(self.last)
    }

    /// Notes the end of a task. The first end counts.
    pub fn end(&mut self, task: TaskId, result: Result<String, String>) {
        if let Some((_, state @ Task::Running)) = self.tasks.iter_mut().find(|(id, _)| *id == task) {
            *state = match result {
                Ok(text) => Task::Done { text },
                Err(text) => Task::Failed { text },
            };
        }
    }

    /// What has become of a task.
    pub fn get(&self, task: TaskId) -> Option<&Task> {
        self.tasks.iter().find(|(id, _)| *id == task).map(|(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_ends_once_and_old_ones_are_forgotten() {
        let mut tasks = Tasks::default();
        let first = tasks.start();
        assert_eq!(tasks.get(first), Some(&Task::Running));
        tasks.end(first, Ok("up".into()));
        tasks.end(first, Err("late".into()));
        assert_eq!(tasks.get(first), Some(&Task::Done { text: "up".into() }));
        let newer: Vec<TaskId> = (0..MAX_TASKS).map(|_| tasks.start()).collect();
        assert_eq!(tasks.get(first), None);
        assert!(newer.iter().all(|task| tasks.get(*task) == Some(&Task::Running)));
    }
}
