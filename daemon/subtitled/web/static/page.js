// Runs on every page. Everything works without it: forms are sent, links are followed.
import { startLiveUpdates } from "./live_update.js";

startLiveUpdates();
