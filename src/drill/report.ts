export {
  type DrillCheck,
  type DrillFacts,
  type DrillPhase,
  type DrillReport,
  type DrillScenario,
  drillPhases,
  drillScenarios,
} from "../snapshot/drill.ts";
